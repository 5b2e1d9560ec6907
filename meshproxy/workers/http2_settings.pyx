"""See the .pxd."""

from meshproxy.codecs.http2 cimport FIRST_WINDOW, default_options

from meshproxy.proxy.exchange import milliseconds


cdef enum:
    # A stream's window is at most so many buffers. What is in it was sent before its taker grew slow, and has to be held; a buffer of 1 MiB
    # lets a stream have what TCP's own window, 6 MiB in Linux's default, gives it over long distances.
    WINDOW_FACTOR = 4


cdef void take_options(Http2Options *options, object settings, int64_t buffer_limit) except *:
    default_options(options)
    options.max_concurrent_streams = settings.max_concurrent_streams
    options.stream_window = min(<int64_t>settings.initial_stream_window_bytes, max(FIRST_WINDOW, WINDOW_FACTOR * buffer_limit))
    options.connection_window = settings.initial_connection_window_bytes
    options.hpack_table = settings.hpack_table_bytes
    options.max_frame = settings.max_frame_bytes
    options.stream_error_on_invalid_message = settings.stream_error_on_invalid_message
    options.max_outbound_frames = settings.max_outbound_frames
    options.max_control_frames = settings.max_outbound_control_frames
    options.max_empty_frames = settings.max_consecutive_empty_frames
    options.max_priority_frames = settings.max_priority_frames_per_stream
    options.max_window_updates = settings.max_window_updates_per_data_frame
    options.max_resets_per_minute = settings.max_resets_per_minute


cdef Pings pings_of(object settings) except *:
    cdef Pings pings = Pings(0, 0, 0, 0)
    alive = settings.keep_alive
    if alive is not None:
        pings.timeout_ms = milliseconds(alive.timeout_s)
        pings.interval_ms = milliseconds(alive.interval_s)
        pings.jitter_ms = int(pings.interval_ms * alive.interval_jitter_percent / 100)
        pings.idle_ms = milliseconds(alive.idle_interval_s)
    return pings
