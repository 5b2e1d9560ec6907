"""HTTP/2 (RFC 9113) over libnghttp2: bytes in, events out; heads, data and ends in, frames out. No socket, clock or log.

One `Http2Session` is one connection, seen from either side. Reading is a loop over `step`, one event a call. What it says and lends is good
until the next `step`. Writing gathers: `respond`, `lend`, `end` and the like only note what is to be sent, `pump` makes frames of it
(pieces of borrowed bytes), and `settle`, after these have gone or were copied, keeps what the peer's windows did not let out. So what was
lent has to live until `settle`, and one pump at the end of an event serves all that happened in it. nghttp2 is never entered from its own
callbacks.

Heads come as HTTP/1 heads: text with a table of fields, made by HTTP/1's own parser, so nothing that HTTP/1 would not carry gets through.
"""

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t, uint8_t
from meshproxy.codecs.http1 cimport Head, Limits
from meshproxy.codecs.nghttp2 cimport nghttp2_session

cdef enum:
    # Enough for one read's worth of an upstream's chunks; one more piece makes the caller pump first.
    LENT_PIECES = 8
    OUT_PIECES = 60
    # What waits for a peer that takes nothing; a peer that empties it in time is held twice as much for, up to the caller's limit.
    FIRST_ROOM = 32768
    ROOM_GROWS_MS = 1000
    # What a peer may send of a stream to begin with: RFC 9113 6.9.2's own value. It doubles with each window that is taken as it comes.
    FIRST_WINDOW = 65535

# What `step` says.
cdef enum:
    EVENT_MORE = 0                       # all was consumed
    EVENT_HEAD                           # `stream`, `head`, `bytes`, `ends`; with `refusal` an ERROR_* of HTTP/1: no head was readable, answer it so
    EVENT_DATA                           # `stream`, `data`, `data_length` (may be 0), `ends`
    EVENT_TRAILERS                       # `stream`, `data`, `data_length`: lines of "name: value\r\n"; the peer's last of this stream
    EVENT_TOLD                           # `stream`: it is `closed` (`error_code`; by a reset of either side, or the peer's GOAWAY), or `drained`
    EVENT_GOAWAY                         # `last_stream_id`, `error_code`: no new streams here; those above it were not begun
    EVENT_SETTINGS                       # `max_peer_streams` may have changed
    EVENT_PONG                           # the answer to `ping`
    EVENT_DRAIN_PONG                     # the answer to the PING behind `announce_goaway`: the peer has read that

# Counters, in the order of the rows `http2.*` of the catalogue.
cdef enum:
    COUNT_DROPPED_HEADERS_WITH_UNDERSCORES = 0
    COUNT_GOAWAY_SENT
    COUNT_HEADER_OVERFLOW
    COUNT_CONTINUATION_FLOOD
    COUNT_EMPTY_FRAMES_FLOOD
    COUNT_PRIORITY_FRAMES_FLOOD
    COUNT_WINDOW_UPDATE_FRAMES_FLOOD
    COUNT_RESET_FRAMES_FLOOD
    COUNT_KEEPALIVE_TIMEOUT
    COUNT_OUTBOUND_CONTROL_FLOOD
    COUNT_OUTBOUND_FLOOD
    COUNT_REJECTED_WITH_UNDERSCORES
    COUNT_RX_MESSAGING_ERROR
    COUNT_RX_RESET
    COUNT_STREAM_REFUSED
    COUNT_TRAILERS
    COUNT_TX_FLUSH_TIMEOUT
    COUNT_TX_RESET
    COUNT_OUTBOUND_CONTROL_FRAMES_ACTIVE # gauge: those that a peer made us send and did not read yet
    COUNT_OUTBOUND_FRAMES_ACTIVE         # gauge
    COUNT_PENDING_SEND_BYTES             # gauge
    COUNT_STREAMS_ACTIVE                 # gauge
    COUNTS

ctypedef struct Piece:
    const char *at
    size_t length

ctypedef struct StreamState:
    int32_t id
    void *owner                          # the handler's object, borrowed. The state lives until `let_go`, also when the stream is closed
    StreamState *next                    # all streams of the session
    StreamState *previous
    StreamState *next_lent
    StreamState *next_told
    bint in_lent, in_told                # on the list of those
    bint begun                           # our head was submitted
    bint received_end                    # the peer's END_STREAM was told
    bint end_given                       # `end` was called
    bint sent_end                        # END_STREAM went out
    bint reset                           # RST_STREAM was submitted, by us or by nghttp2
    bint closed                          # nghttp2 knows the stream no more
    bint deferred                        # nghttp2 waits for `resume`
    bint above                           # told to be above `limit`
    size_t limit
    size_t room                          # the limit that its peer has earned
    int64_t above_ms                     # since when it is above; 0 = it has been emptied since
    bint drained                         # fell below it
    uint32_t error_code                  # why it closed
    int method                           # METHOD_* of the request
    uint32_t unconsumed                  # bytes of DATA told and not consumed
    uint32_t window                      # how much of it the peer may send without our consuming it
    uint32_t taken                       # bytes consumed since the window was changed
    bint held
    Piece lent[LENT_PIECES]
    int lent_count, lent_at              # pieces; those before lent_at are sent
    size_t lent_bytes
    char *queue                          # what was lent and could not be sent in its event
    size_t queue_start, queue_end, queue_capacity
    char *trailers
    size_t trailers_length
    int64_t moved_ms                     # when the peer last took something of it; 0 = nothing is waiting

ctypedef struct HeadText:
    HeadText *next_free
    char *bytes
    size_t length, capacity
    size_t start                         # where the head begins: after the pseudo-header fields as they came
    size_t decoded                       # of all fields, also of those that were too many
    uint32_t cookie_end                  # of the cookie's line, before its line end; 0 = none yet
    int count, crumbs
    int refusal                          # ERROR_* of HTTP/1; from there on nothing more is kept
    bint lines_begun, is_trailers
    uint32_t method_at, method_length, path_at, path_length, authority_at, authority_length, protocol_at, protocol_length
    uint32_t status_at, status_length

# The settings of one side: model.Http2Settings and what HTTP says of heads.
ctypedef struct Http2Options:
    uint32_t max_concurrent_streams
    uint32_t stream_window               # the largest that a stream's grows to
    uint32_t connection_window
    uint32_t hpack_table, max_frame
    bint allow_connect, stream_error_on_invalid_message
    uint32_t max_outbound_frames, max_control_frames, max_empty_frames, max_priority_frames, max_window_updates, max_resets_per_minute
    uint32_t head_bytes, headers

cdef class Http2Session:
    cdef nghttp2_session *ng
    cdef Http2Options options
    cdef Limits limits                   # of the text that HTTP/1's parser reads
    cdef int64_t own_counts[COUNTS]
    cdef int64_t *counts                 # COUNT_*
    cdef readonly bint server
    cdef public int64_t now_ms           # set by the caller before `step` and `pump`
    cdef public bint backlog             # set by the caller before `step` and `pump`: bytes of ours wait for the peer to read
    cdef StreamState *first              # all streams, the newest first
    cdef readonly int streams            # how many nghttp2 knows
    cdef readonly bint failed            # the connection is over: pump, then close. Nothing is read any more
    cdef readonly uint32_t failure       # its error code
    cdef int flood                       # COUNT_* of the flood that ended it; -1 = none

    # the present event
    cdef StreamState *stream
    cdef const char *bytes
    cdef Head *head
    cdef bint ends
    cdef int refusal
    cdef const char *data
    cdef size_t data_length
    cdef uint32_t error_code
    cdef int32_t last_stream_id
    cdef readonly uint32_t max_peer_streams          # how many streams we may open

    # reading
    cdef int event
    cdef uint32_t preface_got            # of the client's 24 bytes
    cdef uint8_t header[9]               # of a frame whose header came in pieces
    cdef int header_got
    cdef uint32_t frame_left
    cdef uint8_t frame_type, frame_flags
    cdef int32_t frame_stream
    cdef bint frame_told                 # nghttp2 found it good
    cdef uint32_t frame_length
    cdef uint8_t front[4]                # of its payload, as far as `judge` wants it
    cdef int front_got, front_wanted
    cdef HeadText *text                  # of the head that is being received, or was just told
    cdef bint text_open
    cdef int32_t highest_id              # of the peer's streams
    cdef uint64_t opened                 # bit n: stream highest_id - 2n was opened, not skipped
    cdef bint announcing                 # our first GOAWAY did not go out yet; a PING is to follow it
    cdef int32_t goaway_id               # streams above it are ignored; 0 = no GOAWAY yet
    cdef int32_t *reset_ids              # of streams that we reset: frames for them may still be under way
    cdef int reset_count, reset_at

    # floods
    cdef uint32_t empty_frames, continuations, control_frames, outbound_frames, resets
    cdef int64_t priority_frames, window_updates, streams_opened, data_frames_sent, resets_since_ms

    # writing
    cdef StreamState *lent               # those that were lent something, or that the next pump has to resume
    cdef StreamState *told               # those with news for their owners
    cdef StreamState *closed             # to be freed
    cdef bint blocked                    # the transport takes no more data
    cdef bint full                       # `pump` stopped because its pieces or its scratch are used up
    cdef Piece *out                      # what `pump` made
    cdef int out_count
    cdef readonly int64_t queued_bytes   # memory of all queues

    # -- reading
    cdef int step(self, const char *data, size_t length, size_t *consumed) noexcept
    # The peer may send as much again as was told of this stream.
    cdef void consume(self, StreamState *s) noexcept
    # What comes of this stream waits with the caller, until `consume`.
    cdef void hold(self, StreamState *s) noexcept
    # Outside of `step`: the next stream to be told as EVENT_TOLD says; NULL = no more.
    cdef StreamState *take_told(self) noexcept

    # -- writing
    # `bytes`/`head` may be NULL; `lines` are added. `ends`: no data and no trailers follow. False: no memory.
    cdef bint respond(self, StreamState *s, int status, const char *bytes, const Head *head, const char *lines, size_t length, bint ends) noexcept
    cdef bint inform(self, StreamState *s, int status, const char *bytes, const Head *head) noexcept
    # NULL: no memory, or no stream id left. `protocol` NULL = none (RFC 8441); `scheme` is "http" or "https".
    cdef StreamState *request(
        self, void *owner, const char *method, size_t method_length, const char *path, size_t path_length,
        const char *authority, size_t authority_length, const char *scheme, const char *protocol, size_t protocol_length, int method_id,
        const char *bytes, const Head *head, const char *lines, size_t length, bint ends) noexcept
    # False: `pump` and `settle` first.
    cdef bint lend(self, StreamState *s, const char *data, size_t length) noexcept
    cdef void end(self, StreamState *s, const char *trailers, size_t length) noexcept
    cdef void cancel(self, StreamState *s, uint32_t code) noexcept
    cdef void let_go(self, StreamState *s) noexcept
    cdef size_t unsent(self, const StreamState *s) noexcept
    # True: stop what feeds this stream until it is told to be drained. `tight`: a peer that does not take what it is given has less than `limit`.
    cdef bint is_above(self, StreamState *s, size_t limit, bint tight) noexcept
    cdef void fail(self, uint32_t code) noexcept
    # Say that we are going: first without a last stream and with a PING behind it, then for good.
    cdef void announce_goaway(self) noexcept
    cdef void finish_goaway(self) noexcept
    cdef void ping(self) noexcept
    cdef bint wants_write(self) noexcept
    # What was lent is no longer there: the streams that had something cannot go on.
    cdef void forget_lent(self) noexcept
    # Frames into `out`; how many pieces. `blocked`: no data, only what is short. While `full` is set there is more: send these, then again.
    cdef int pump(self, bint blocked) noexcept
    cdef void settle(self) noexcept
    # A HTTP/1 client's upgrade (h2c): the base64url of HTTP2-Settings. NULL: bad settings. The stream with id 1, its request read in full.
    cdef StreamState *upgrade(self, const char *settings, size_t length, int method) noexcept

    # The connection is gone.
    cdef void abandon(self) noexcept
    cdef uint32_t first_window(self) noexcept
    cdef void set_window(self, StreamState *s, uint32_t window) noexcept
    # Before all else. `counts`: cells in the order of COUNT_*; NULL = the session's own. False: no memory.
    cdef bint open(self, const Http2Options *options, int64_t *counts) noexcept

    cdef size_t take_preface(self, const char *data, size_t length) noexcept
    cdef bint feed(self, const uint8_t *data, size_t length) noexcept
    cdef int after_feed(self) noexcept
    cdef int tell_next(self) noexcept
    cdef void tell(self, StreamState *s) noexcept
    cdef void untell(self, StreamState *s) noexcept
    cdef void messaging_failed(self, StreamState *s) noexcept
    cdef bint count_reset(self) noexcept
    cdef void remember_reset(self, int32_t id) noexcept
    cdef StreamState *new_stream(self, int32_t id, void *owner) noexcept
    cdef void on_closed(self, StreamState *s, uint32_t code) noexcept
    cdef void unlist(self, StreamState *s) noexcept
    cdef void free_closed(self) noexcept
    cdef void resume(self, StreamState *s) noexcept

# model.Http2Settings' defaults, and the head's of model.HttpConnectionManager.
cdef void default_options(Http2Options *options) noexcept
# Whether it is what HTTP2-Settings holds.
cdef bint is_settings(const char *text, size_t length) noexcept
