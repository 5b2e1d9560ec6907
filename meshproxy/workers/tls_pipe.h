/* What OpenSSL reads from and writes to: bytes lent for one call, and a buffer of what it wants to send. A worker has one pipe,
 * because no call into OpenSSL begins within another. */
#ifndef MESHPROXY_TLS_PIPE_H
#define MESHPROXY_TLS_PIPE_H
#include <openssl/bio.h>
#include <openssl/ssl.h>
#include <stdlib.h>
#include <string.h>

enum { AFTERTHOUGHTS_MOST = 32 };

typedef struct {
    const char *in;         /* ciphertext that was read and is not used yet */
    size_t in_length;
    char *out;              /* ciphertext to send */
    size_t out_length, out_capacity;
    int afterthoughts;      /* key updates and renegotiations of the present connection since its last data */
} TlsPipe;

static int pipe_read(BIO *bio, char *into, int room) {
    TlsPipe *pipe = BIO_get_data(bio);
    int part;
    BIO_clear_retry_flags(bio);
    if (pipe->afterthoughts > AFTERTHOUGHTS_MOST)
        return -1;          /* a flood: the call ends here, not after all that it brought */
    if (pipe->in_length == 0) {
        BIO_set_retry_read(bio);
        return -1;
    }
    part = (size_t)room < pipe->in_length ? room : (int)pipe->in_length;
    memcpy(into, pipe->in, part);
    pipe->in += part;
    pipe->in_length -= part;
    return part;
}

static int pipe_write(BIO *bio, const char *data, int length) {
    TlsPipe *pipe = BIO_get_data(bio);
    size_t need = pipe->out_length + length;
    BIO_clear_retry_flags(bio);
    if (need > pipe->out_capacity) {
        char *grown = realloc(pipe->out, need * 2);
        if (!grown)
            return -1;
        pipe->out = grown;
        pipe->out_capacity = need * 2;
    }
    memcpy(pipe->out + pipe->out_length, data, length);
    pipe->out_length = need;
    return length;
}

static long pipe_ctrl(BIO *bio, int command, long number, void *pointer) {
    (void)bio, (void)number, (void)pointer;
    return command == BIO_CTRL_FLUSH;
}

static BIO_METHOD *pipe_method(void) {
    BIO_METHOD *method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "pipe");
    BIO_meth_set_read(method, pipe_read);
    BIO_meth_set_write(method, pipe_write);
    BIO_meth_set_ctrl(method, pipe_ctrl);
    return method;
}

static int attach_pipe(SSL *ssl, const BIO_METHOD *method, TlsPipe *pipe) {
    BIO *bio = BIO_new(method);
    if (!bio)
        return 0;
    BIO_set_data(bio, pipe);
    BIO_set_init(bio, 1);
    SSL_set_bio(ssl, bio, bio);
    return 1;
}

/* Called for each message of an open connection: what a peer can make us do again and again is counted. */
static void count_afterthought(int sent, int version, int type, const void *data, size_t length, SSL *ssl, void *pipe) {
    const unsigned char *message = data;
    (void)version, (void)ssl;
    if (type == SSL3_RT_HANDSHAKE && !sent && length && message[0] == SSL3_MT_KEY_UPDATE)
        ((TlsPipe *)pipe)->afterthoughts++;
    else if (type == SSL3_RT_ALERT && sent && length == 2 && message[1] == SSL_AD_NO_RENEGOTIATION)
        ((TlsPipe *)pipe)->afterthoughts++;
}

static void watch_afterthoughts(SSL *ssl, TlsPipe *pipe) {
    SSL_set_msg_callback(ssl, count_afterthought);
    SSL_set_msg_callback_arg(ssl, pipe);
}
#endif
