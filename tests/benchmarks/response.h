/* Incremental parser of HTTP/1.1 responses: content-length or chunked, any split into reads. */
#pragma once
#include "net.h"

enum response_state { HEAD, BODY, CHUNK_SIZE, CHUNK_DATA, CHUNK_END, TRAILER };

struct response {
    enum response_state state;
    int status, closes;
    size_t left; /* bytes of the body or of the chunk still to come */
};

enum progress { NEED_MORE, WHOLE, BROKEN };

/* Called with each piece of the body, in order. */
typedef void body_sink(void *context, const char *data, size_t size);

static inline enum progress parse_head(struct response *r, struct buffer *in) {
    const char *head = buffer_head(in), *end = memmem(head, buffer_size(in), "\r\n\r\n", 4);
    if (!end) return NEED_MORE;
    size_t size = (size_t)(end - head) + 4, value_size;
    if (size < 12 || strncmp(head, "HTTP/1.1 ", 9) != 0) return BROKEN;
    r->status = atoi(head + 9);
    r->closes = header_is(head, size, "connection", "close");
    const char *length = header_value(head, size, "content-length", &value_size);
    int chunked = header_is(head, size, "transfer-encoding", "chunked");
    if (!length && !chunked) return BROKEN; /* ended by closing: no keep-alive, nothing here sends it */
    r->left = length ? strtoul(length, NULL, 10) : 0;
    r->state = chunked ? CHUNK_SIZE : BODY;
    buffer_consume(in, size);
    return WHOLE;
}

/* Takes one line off; its length without the line end, or -1 where it is not there yet. */
static inline long take_line(struct buffer *in, char *line, size_t capacity) {
    char *end = memmem(buffer_head(in), buffer_size(in), "\r\n", 2);
    if (!end) return -1;
    size_t size = (size_t)(end - buffer_head(in)), kept = size < capacity - 1 ? size : capacity - 1;
    memcpy(line, buffer_head(in), kept);
    line[kept] = 0;
    buffer_consume(in, size + 2);
    return (long)size;
}

static inline int take_data(struct response *r, struct buffer *in, body_sink *sink, void *context) {
    size_t size = buffer_size(in) < r->left ? buffer_size(in) : r->left;
    if (size) sink(context, buffer_head(in), size);
    buffer_consume(in, size);
    r->left -= size;
    return r->left == 0;
}

/* WHOLE once the response has ended; what follows it stays in the buffer. Then clear `r` for the next one. */
static inline enum progress parse_response(struct response *r, struct buffer *in, body_sink *sink, void *context) {
    char line[64];
    long size;
    for (;;) switch (r->state) {
            case HEAD: {
                enum progress head = parse_head(r, in);
                if (head != WHOLE) return head;
                break;
            }
            case BODY:
                return take_data(r, in, sink, context) ? WHOLE : NEED_MORE;
            case CHUNK_SIZE:
                if (take_line(in, line, sizeof line) < 0) return NEED_MORE;
                r->left = strtoul(line, NULL, 16);
                r->state = r->left ? CHUNK_DATA : TRAILER;
                break;
            case CHUNK_DATA:
                if (!take_data(r, in, sink, context)) return NEED_MORE;
                r->state = CHUNK_END;
                break;
            case CHUNK_END:
                if ((size = take_line(in, line, sizeof line)) != 0) return size < 0 ? NEED_MORE : BROKEN;
                r->state = CHUNK_SIZE;
                break;
            case TRAILER:
                if ((size = take_line(in, line, sizeof line)) <= 0) return size < 0 ? NEED_MORE : WHOLE;
        }
}
