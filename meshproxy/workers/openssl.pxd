"""What the data path uses of OpenSSL 3.0. Names and meanings are the library's own."""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdio cimport FILE

cdef extern from "<openssl/ssl.h>":
    ctypedef struct SSL
    ctypedef struct SSL_CTX
    ctypedef struct SSL_METHOD
    ctypedef struct SSL_SESSION
    ctypedef struct SSL_CIPHER
    ctypedef struct X509
    ctypedef struct X509_CRL
    ctypedef struct X509_NAME
    ctypedef struct X509_STORE
    ctypedef struct X509_STORE_CTX
    ctypedef struct EVP_PKEY
    ctypedef struct EVP_CIPHER
    ctypedef struct EVP_CIPHER_CTX
    ctypedef struct EVP_MAC_CTX
    ctypedef struct EVP_MD
    ctypedef struct ASN1_INTEGER
    ctypedef struct ASN1_OBJECT
    ctypedef struct ASN1_TIME
    ctypedef struct ASN1_STRING
    ctypedef struct BIGNUM
    ctypedef struct BIO
    ctypedef struct BIO_METHOD
    ctypedef struct ENGINE
    ctypedef struct X509_PUBKEY
    ctypedef struct X509Stack "STACK_OF(X509)"
    ctypedef struct X509NameStack "STACK_OF(X509_NAME)"
    ctypedef struct OSSL_PARAM:
        const char *key

    const SSL_METHOD *TLS_server_method()
    const SSL_METHOD *TLS_client_method()
    SSL_CTX *SSL_CTX_new(const SSL_METHOD *method)
    void SSL_CTX_free(SSL_CTX *ctx)
    int SSL_CTX_up_ref(SSL_CTX *ctx)
    uint64_t SSL_CTX_set_options(SSL_CTX *ctx, uint64_t options)
    long SSL_CTX_set_mode(SSL_CTX *ctx, long mode)
    int SSL_CTX_set_min_proto_version(SSL_CTX *ctx, int version)
    int SSL_CTX_set_max_proto_version(SSL_CTX *ctx, int version)
    int SSL_CTX_set_ciphersuites(SSL_CTX *ctx, const char *text)
    int SSL_CTX_set_cipher_list(SSL_CTX *ctx, const char *text)
    int SSL_CTX_set1_groups_list(SSL_CTX *ctx, const char *text)
    int SSL_CTX_set1_sigalgs_list(SSL_CTX *ctx, const char *text)
    void SSL_CTX_set_security_level(SSL_CTX *ctx, int level)
    int SSL_CTX_use_certificate(SSL_CTX *ctx, X509 *leaf)
    int SSL_CTX_use_PrivateKey(SSL_CTX *ctx, EVP_PKEY *key)
    int SSL_CTX_set1_chain(SSL_CTX *ctx, X509Stack *chain)
    X509_STORE *SSL_CTX_get_cert_store(const SSL_CTX *ctx)
    void SSL_CTX_set_verify(SSL_CTX *ctx, int mode, int (*callback)(int, X509_STORE_CTX *) noexcept)
    void SSL_CTX_set_verify_depth(SSL_CTX *ctx, int depth)
    void SSL_CTX_set_cert_verify_callback(SSL_CTX *ctx, int (*callback)(X509_STORE_CTX *, void *) noexcept, void *arg)
    void SSL_CTX_set_client_CA_list(SSL_CTX *ctx, X509NameStack *names)
    int SSL_CTX_set_default_verify_paths(SSL_CTX *ctx)
    int SSL_CTX_set_session_id_context(SSL_CTX *ctx, const unsigned char *context, unsigned int length)
    long SSL_CTX_set_session_cache_mode(SSL_CTX *ctx, long mode)
    long SSL_CTX_sess_set_cache_size(SSL_CTX *ctx, long size)
    long SSL_CTX_set_timeout(SSL_CTX *ctx, long seconds)
    int SSL_CTX_set_num_tickets(SSL_CTX *ctx, size_t count)
    void SSL_CTX_sess_set_new_cb(SSL_CTX *ctx, int (*callback)(SSL *, SSL_SESSION *) noexcept)
    void SSL_CTX_set_alpn_select_cb(
        SSL_CTX *ctx, int (*callback)(SSL *, const unsigned char **, unsigned char *, const unsigned char *, unsigned int, void *) noexcept, void *arg)
    int SSL_CTX_set_alpn_protos(SSL_CTX *ctx, const unsigned char *wire, unsigned int length)
    long SSL_CTX_set_tlsext_servername_callback(SSL_CTX *ctx, int (*callback)(SSL *, int *, void *) noexcept)
    long SSL_CTX_set_tlsext_servername_arg(SSL_CTX *ctx, void *arg)
    long SSL_CTX_set_tlsext_status_cb(SSL_CTX *ctx, int (*callback)(SSL *, void *) noexcept)
    long SSL_CTX_set_tlsext_status_arg(SSL_CTX *ctx, void *arg)
    int SSL_CTX_set_tlsext_ticket_key_evp_cb(
        SSL_CTX *ctx, int (*callback)(SSL *, unsigned char *, unsigned char *, EVP_CIPHER_CTX *, EVP_MAC_CTX *, int) noexcept)
    void SSL_CTX_set_keylog_callback(SSL_CTX *ctx, void (*callback)(const SSL *, const char *) noexcept)
    SSL_CTX *SSL_set_SSL_CTX(SSL *ssl, SSL_CTX *ctx)

    SSL *SSL_new(SSL_CTX *ctx)
    void SSL_free(SSL *ssl)
    void SSL_set_bio(SSL *ssl, BIO *read, BIO *write)
    void SSL_set_accept_state(SSL *ssl)
    void SSL_set_connect_state(SSL *ssl)
    int SSL_do_handshake(SSL *ssl)
    int SSL_read_ex(SSL *ssl, void *into, size_t room, size_t *got)
    int SSL_write_ex(SSL *ssl, const void *data, size_t length, size_t *taken)
    int SSL_shutdown(SSL *ssl)
    void SSL_set_shutdown(SSL *ssl, int mode)
    int SSL_get_shutdown(const SSL *ssl)
    int SSL_get_error(const SSL *ssl, int result)
    int SSL_has_pending(const SSL *ssl)
    int SSL_set_app_data(SSL *ssl, void *data)
    void *SSL_get_app_data(const SSL *ssl)
    void SSL_set_msg_callback_arg(SSL *ssl, void *arg)
    long SSL_set_tlsext_host_name(SSL *ssl, const char *name)
    long SSL_set_tlsext_status_ocsp_resp(SSL *ssl, void *response, long length)
    const char *SSL_get_servername(const SSL *ssl, int type)
    int SSL_set_session(SSL *ssl, SSL_SESSION *session)
    SSL_SESSION *SSL_get_session(const SSL *ssl)
    int SSL_session_reused(const SSL *ssl)
    const char *SSL_get_version(const SSL *ssl)
    int SSL_version(const SSL *ssl)
    const SSL_CIPHER *SSL_get_current_cipher(const SSL *ssl)
    const char *SSL_CIPHER_get_name(const SSL_CIPHER *cipher)
    int SSL_CIPHER_get_kx_nid(const SSL_CIPHER *cipher)
    void SSL_get0_alpn_selected(const SSL *ssl, const unsigned char **protocol, unsigned int *length)
    long SSL_get_verify_result(const SSL *ssl)
    X509 *SSL_get1_peer_certificate(const SSL *ssl)
    X509 *SSL_get0_peer_certificate(const SSL *ssl)
    X509 *SSL_get_certificate(const SSL *ssl)
    X509Stack *SSL_get_peer_cert_chain(const SSL *ssl)
    int SSL_get_ex_data_X509_STORE_CTX_idx()
    long SSL_get_negotiated_group(SSL *ssl)
    int SSL_get_peer_signature_type_nid(const SSL *ssl, int *nid)
    int SSL_get_peer_signature_nid(SSL *ssl, int *nid)
    void SSL_SESSION_free(SSL_SESSION *session)
    int SSL_SESSION_up_ref(SSL_SESSION *session)
    const unsigned char *SSL_SESSION_get_id(const SSL_SESSION *session, unsigned int *length)
    int SSL_SESSION_get_protocol_version(const SSL_SESSION *session)
    int SSL_select_next_proto(
        unsigned char **out, unsigned char *out_length, const unsigned char *server, unsigned int server_length,
        const unsigned char *client, unsigned int client_length)

    long SSL_MODE_ENABLE_PARTIAL_WRITE, SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER, SSL_MODE_RELEASE_BUFFERS
    uint64_t SSL_OP_NO_RENEGOTIATION, SSL_OP_NO_COMPRESSION, SSL_OP_CIPHER_SERVER_PREFERENCE, SSL_OP_PRIORITIZE_CHACHA, SSL_OP_NO_TICKET
    int SSL_VERIFY_NONE, SSL_VERIFY_PEER, SSL_VERIFY_FAIL_IF_NO_PEER_CERT
    long SSL_SESS_CACHE_OFF, SSL_SESS_CACHE_SERVER, SSL_SESS_CACHE_CLIENT, SSL_SESS_CACHE_NO_INTERNAL
    int SSL_ERROR_NONE, SSL_ERROR_WANT_READ, SSL_ERROR_ZERO_RETURN
    int SSL_SENT_SHUTDOWN, SSL_RECEIVED_SHUTDOWN
    int SSL_TLSEXT_ERR_OK, SSL_TLSEXT_ERR_NOACK, SSL_TLSEXT_ERR_ALERT_FATAL
    int TLSEXT_NAMETYPE_host_name, OPENSSL_NPN_NEGOTIATED
    int TLS1_VERSION, TLS1_1_VERSION, TLS1_2_VERSION, TLS1_3_VERSION
    int SSL3_RT_HANDSHAKE, SSL3_RT_ALERT, SSL3_MT_KEY_UPDATE, SSL_AD_NO_RENEGOTIATION, SSL_AD_REASON_OFFSET
    int SSL_R_HTTP_REQUEST, SSL_R_UNSUPPORTED_PROTOCOL, SSL_R_UNKNOWN_PROTOCOL, SSL_R_WRONG_SSL_VERSION, SSL_R_VERSION_TOO_LOW
    int SSL_R_NO_SHARED_CIPHER, SSL_R_NO_SUITABLE_KEY_SHARE, SSL_R_NO_SUITABLE_GROUPS
    int SSL_R_NO_SHARED_SIGNATURE_ALGORITHMS, SSL_R_NO_SUITABLE_SIGNATURE_ALGORITHM, SSL_R_NO_SHARED_GROUPS, SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE
    int SSL_R_CERTIFICATE_VERIFY_FAILED, SSL_R_NO_PROTOCOLS_AVAILABLE

cdef extern from "<openssl/err.h>":
    void ERR_clear_error()
    unsigned long ERR_peek_last_error()
    const char *ERR_reason_error_string(unsigned long error)
    int ERR_GET_REASON(unsigned long error)
    int ERR_GET_LIB(unsigned long error)
    int ERR_LIB_SSL

cdef extern from "<openssl/bio.h>":
    BIO *BIO_new_mem_buf(const void *data, int length)
    BIO *BIO_new(const BIO_METHOD *method)
    const BIO_METHOD *BIO_s_mem()
    int BIO_free(BIO *bio)
    long BIO_get_mem_data(BIO *bio, char **at)

cdef extern from "<openssl/pem.h>":
    ctypedef int pem_password_cb(char *, int, int, void *) noexcept
    X509 *PEM_read_bio_X509_AUX(BIO *bio, X509 **out, pem_password_cb *callback, void *arg)
    X509_CRL *PEM_read_bio_X509_CRL(BIO *bio, X509_CRL **out, pem_password_cb *callback, void *arg)
    EVP_PKEY *PEM_read_bio_PrivateKey(BIO *bio, EVP_PKEY **out, pem_password_cb *callback, void *arg)
    int PEM_write_bio_X509(BIO *bio, X509 *x)

cdef extern from "<openssl/x509v3.h>":
    ctypedef union AsnValue:
        ASN1_STRING *asn1_string
    ctypedef struct OTHERNAME:
        ASN1_OBJECT *type_id
        ASN1_TYPE *value
    ctypedef struct ASN1_TYPE:
        int type
        AsnValue value
    ctypedef struct GENERAL_NAME:
        int type
    ctypedef struct GENERAL_NAMES
    int X509_get_ext_by_NID(const X509 *x, int nid, int after)
    void *X509_get_ext_d2i(const X509 *x, int nid, int *critical, int *index)
    int sk_GENERAL_NAME_num(const GENERAL_NAMES *names)
    GENERAL_NAME *sk_GENERAL_NAME_value(const GENERAL_NAMES *names, int index)
    void GENERAL_NAMES_free(GENERAL_NAMES *names)
    void *GENERAL_NAME_get0_value(const GENERAL_NAME *name, int *type)
    int GEN_DNS, GEN_URI, GEN_EMAIL, GEN_IPADD, GEN_OTHERNAME
    uint32_t X509_get_key_usage(X509 *x)
    uint32_t KU_DIGITAL_SIGNATURE, KU_KEY_ENCIPHERMENT

cdef extern from "<openssl/x509.h>":
    void X509_free(X509 *x)
    int X509_up_ref(X509 *x)
    int X509_cmp(const X509 *a, const X509 *b)
    X509Stack *X509_chain_up_ref(X509Stack *chain)
    X509Stack *sk_X509_new_null()
    int sk_X509_push(X509Stack *chain, X509 *x)
    int sk_X509_num(const X509Stack *chain)
    X509 *sk_X509_value(const X509Stack *chain, int index)
    void sk_X509_pop_free(X509Stack *chain, void (*free)(X509 *))
    X509NameStack *sk_X509_NAME_new_null()
    int sk_X509_NAME_push(X509NameStack *names, X509_NAME *name)
    X509_NAME *X509_NAME_dup(const X509_NAME *name)
    X509_NAME *X509_get_subject_name(const X509 *x)
    X509_NAME *X509_get_issuer_name(const X509 *x)
    int X509_NAME_print_ex(BIO *out, const X509_NAME *name, int indent, unsigned long flags)
    int X509_NAME_get_text_by_NID(X509_NAME *name, int nid, char *into, int room)
    unsigned long XN_FLAG_RFC2253
    ASN1_INTEGER *X509_get_serialNumber(X509 *x)
    const ASN1_TIME *X509_get0_notBefore(const X509 *x)
    const ASN1_TIME *X509_get0_notAfter(const X509 *x)
    int X509_digest(const X509 *x, const EVP_MD *digest, unsigned char *out, unsigned int *length)
    X509_PUBKEY *X509_get_X509_PUBKEY(const X509 *x)
    int i2d_X509_PUBKEY(X509_PUBKEY *key, unsigned char **out)
    EVP_PKEY *X509_get0_pubkey(const X509 *x)
    int X509_check_private_key(const X509 *x, const EVP_PKEY *key)
    int X509_check_host(X509 *x, const char *name, size_t length, unsigned int flags, char **matched)
    int X509_check_ip_asc(X509 *x, const char *text, unsigned int flags)
    unsigned int X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS
    void X509_CRL_free(X509_CRL *crl)
    void EVP_PKEY_free(EVP_PKEY *key)
    int EVP_PKEY_get_base_id(const EVP_PKEY *key)
    int EVP_PKEY_get_bits(const EVP_PKEY *key)
    int EVP_PKEY_get_group_name(const EVP_PKEY *key, char *name, size_t room, size_t *length)
    int EVP_PKEY_RSA, EVP_PKEY_RSA_PSS, EVP_PKEY_EC, EVP_PKEY_ED25519
    int X509_STORE_add_cert(X509_STORE *store, X509 *x)
    int X509_STORE_add_crl(X509_STORE *store, X509_CRL *crl)
    int X509_STORE_set_flags(X509_STORE *store, unsigned long flags)
    void X509_STORE_set_verify_cb(X509_STORE *store, int (*callback)(int, X509_STORE_CTX *) noexcept)
    int X509_verify_cert(X509_STORE_CTX *ctx)
    X509 *X509_STORE_CTX_get0_cert(const X509_STORE_CTX *ctx)
    int X509_STORE_CTX_get_error(const X509_STORE_CTX *ctx)
    void X509_STORE_CTX_set_error(X509_STORE_CTX *ctx, int error)
    void *X509_STORE_CTX_get_ex_data(const X509_STORE_CTX *ctx, int index)
    const char *X509_verify_cert_error_string(long error)
    unsigned long X509_V_FLAG_PARTIAL_CHAIN, X509_V_FLAG_CRL_CHECK, X509_V_FLAG_CRL_CHECK_ALL
    int X509_V_OK, X509_V_ERR_CERT_HAS_EXPIRED, X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_APPLICATION_VERIFICATION

cdef extern from "<openssl/asn1.h>":
    ctypedef struct BrokenTime "struct tm":
        pass
    const unsigned char *ASN1_STRING_get0_data(const ASN1_STRING *text)
    int ASN1_STRING_length(const ASN1_STRING *text)
    BIGNUM *ASN1_INTEGER_to_BN(const ASN1_INTEGER *number, BIGNUM *into)
    char *BN_bn2hex(const BIGNUM *number)
    void BN_free(BIGNUM *number)
    int ASN1_TIME_to_tm(const ASN1_TIME *when, BrokenTime *out)
    int OBJ_obj2txt(char *into, int room, const ASN1_OBJECT *object, int no_name)
    int NID_subject_alt_name, NID_commonName, NID_tlsfeature, NID_kx_rsa, NID_X25519, NID_X448, NID_X9_62_prime256v1, NID_secp384r1, NID_secp521r1
    int NID_sha1, NID_sha256, NID_sha384, NID_sha512

cdef extern from "<time.h>":
    long timegm(BrokenTime *when)

cdef extern from "<openssl/ocsp.h>":
    ctypedef struct OCSP_RESPONSE
    ctypedef struct OCSP_BASICRESP
    ctypedef struct OCSP_SINGLERESP
    ctypedef struct ASN1_GENERALIZEDTIME
    OCSP_RESPONSE *d2i_OCSP_RESPONSE(OCSP_RESPONSE **out, const unsigned char **at, long length)
    void OCSP_RESPONSE_free(OCSP_RESPONSE *response)
    int OCSP_response_status(OCSP_RESPONSE *response)
    OCSP_BASICRESP *OCSP_response_get1_basic(OCSP_RESPONSE *response)
    void OCSP_BASICRESP_free(OCSP_BASICRESP *basic)
    int OCSP_resp_count(OCSP_BASICRESP *basic)
    OCSP_SINGLERESP *OCSP_resp_get0(OCSP_BASICRESP *basic, int index)
    int OCSP_single_get0_status(
        OCSP_SINGLERESP *single, int *reason, ASN1_GENERALIZEDTIME **revoked, ASN1_GENERALIZEDTIME **from_time, ASN1_GENERALIZEDTIME **until)

cdef extern from "<openssl/evp.h>":
    const EVP_CIPHER *EVP_aes_256_cbc()
    const EVP_MD *EVP_sha256()
    const EVP_MD *EVP_sha1()
    int EVP_EncryptInit_ex(EVP_CIPHER_CTX *ctx, const EVP_CIPHER *cipher, ENGINE *engine, const unsigned char *key, const unsigned char *iv)
    int EVP_DecryptInit_ex(EVP_CIPHER_CTX *ctx, const EVP_CIPHER *cipher, ENGINE *engine, const unsigned char *key, const unsigned char *iv)
    int EVP_MAC_CTX_set_params(EVP_MAC_CTX *ctx, const OSSL_PARAM *params)
    OSSL_PARAM OSSL_PARAM_construct_octet_string(const char *key, void *data, size_t length)
    OSSL_PARAM OSSL_PARAM_construct_utf8_string(const char *key, char *text, size_t length)
    OSSL_PARAM OSSL_PARAM_construct_end()
    void *OPENSSL_memdup(const void *data, size_t length)
    void OPENSSL_free(void *at)

cdef extern from "<openssl/rand.h>":
    int RAND_bytes(unsigned char *out, int length)

cdef extern from "<openssl/sha.h>":
    unsigned char *SHA256(const unsigned char *data, size_t length, unsigned char *out)
