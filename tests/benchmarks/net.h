/* What the mock backend and the load generator share: clock, growable buffer, acknowledgement datagrams. */
#pragma once
#define _GNU_SOURCE
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static inline uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t); /* one clock for both processes of a machine, so stamps compare */
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline void die(const char *what) {
    perror(what);
    exit(1);
}

/* Bytes [start, end) are unread. */
struct buffer {
    char *data;
    size_t start, end, capacity;
};

static inline size_t buffer_size(const struct buffer *b) { return b->end - b->start; }
static inline char *buffer_head(const struct buffer *b) { return b->data + b->start; }
static inline void buffer_clear(struct buffer *b) { b->start = b->end = 0; }

static inline void buffer_consume(struct buffer *b, size_t size) {
    b->start += size;
    if (b->start == b->end) buffer_clear(b);
}

/* Makes room for `size` more bytes after `end`. */
static inline void buffer_reserve(struct buffer *b, size_t size) {
    if (b->capacity - b->end >= size) return;
    if (b->start > 0) {
        memmove(b->data, b->data + b->start, buffer_size(b));
        b->end -= b->start;
        b->start = 0;
    }
    if (b->capacity - b->end >= size) return;
    size_t capacity = b->capacity ? b->capacity : 4096;
    while (capacity - b->end < size) capacity *= 2;
    if (!(b->data = realloc(b->data, capacity))) die("realloc");
    b->capacity = capacity;
}

static inline void buffer_append(struct buffer *b, const void *data, size_t size) {
    buffer_reserve(b, size);
    memcpy(b->data + b->end, data, size);
    b->end += size;
}

/* The value of a header in a message head that ends in an empty line; NULL where absent. `name` in lower case. */
static inline const char *header_value(const char *head, size_t size, const char *name, size_t *value_size) {
    size_t name_size = strlen(name);
    const char *end = head + size, *line = memchr(head, '\n', size);
    while (line && (size_t)(end - ++line) > name_size) {
        const char *next = memchr(line, '\n', (size_t)(end - line));
        if (line[name_size] == ':' && strncasecmp(line, name, name_size) == 0) {
            const char *value = line + name_size + 1, *stop = next ? next : end;
            while (value < stop && (*value == ' ' || *value == '\t')) value++;
            while (stop > value && (stop[-1] == '\r' || stop[-1] == ' ')) stop--;
            *value_size = (size_t)(stop - value);
            return value;
        }
        line = next;
    }
    return NULL;
}

/* Whether a header is present with exactly this value (letter case aside). */
static inline int header_is(const char *head, size_t size, const char *name, const char *expected) {
    size_t value_size;
    const char *value = header_value(head, size, name, &value_size);
    return value && value_size == strlen(expected) && strncasecmp(value, expected, value_size) == 0;
}

/*
 * Closed loop: each paced chunk carries a stamp "@slot.stream.sent_ns", fixed width. The client answers it with an
 * acknowledgement, past the proxy, over a Unix datagram socket (reliable: the sender waits when the queue is full);
 * only then does the mock send the stream's next chunk. One datagram carries many, so that they cost little.
 */
#define STAMP_FORMAT "@%05u.%010u.%019llu"
#define STAMP_SIZE (1 + 5 + 1 + 10 + 1 + 19)
#define ACKS_PER_DATAGRAM 64

struct ack {
    uint32_t slot, stream, last; /* last: end the stream instead of sending another chunk */
};

/* The acknowledgement socket of the mock that listens on `port`, in Linux's abstract namespace: no file to clean up. */
static inline socklen_t ack_address(struct sockaddr_un *address, int port) {
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    int size = snprintf(address->sun_path + 1, sizeof address->sun_path - 1, "paretoproxy-bench-%d", port);
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)size);
}
