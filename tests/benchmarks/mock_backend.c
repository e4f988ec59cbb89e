/*
 * A very light mock of one vLLM server: epoll, one thread, HTTP/1.1 keep-alive with pipelining.
 *
 *   mock_backend PORT
 *
 * POST /v1/chat/completions, /v1/completions: a fixed ~300-token answer; with "stream": true server-sent events,
 * all in one write. With "mock-paced" anywhere in the streamed request's body (say, in its `user`), chunks are stamped and
 * each waits for the acknowledgement of the one before it (net.h). GET /v1/models, /health, /version, /metrics.
 */
#include "net.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <sys/epoll.h>

#define MAX_CONNECTIONS 20000
#define EVENTS_PER_WAIT 64
#define CREATED "1700000000"

enum api { CHAT, TEXT, API_COUNT };

struct connection {
    int open, want_write, close_after;
    struct buffer in, out;
    uint32_t paced_stream; /* 0: none in progress */
    enum api paced_api;
};

struct request {
    const char *target, *body;
    size_t target_size, body_size, size; /* size: head and body */
    int is_post, keep_alive;
};

static struct connection connections[MAX_CONNECTIONS]; /* by file descriptor */
static struct buffer answers[API_COUNT], streams[API_COUNT], paced_openings[API_COUNT], paced_endings[API_COUNT];
static struct buffer paced_prefix[API_COUNT], paced_suffix[API_COUNT];
static int epoll_fd;
static uint32_t last_stream;
static unsigned running;
static unsigned long long completed;

/* -- what is answered: built once -- */

static void append_format(struct buffer *b, const char *format, ...) {
    char text[8192];
    va_list args;
    va_start(args, format);
    int size = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    buffer_append(b, text, (size_t)size);
}

static void append_response(struct buffer *b, const char *status, const char *type, const char *body) {
    append_format(b, "HTTP/1.1 %s\r\nserver: mock\r\ncontent-type: %s\r\ncontent-length: %zu\r\n\r\n", status, type,
                  strlen(body));
    buffer_append(b, body, strlen(body));
}

static void build_answer(enum api api) {
    static const char sentence[] = "Multiply the two numbers, carry the ten, and check the sum of the digits once more. ";
    char content[2048] = "", body[4096];
    while (strlen(content) < 1300) strcat(content, sentence); /* with the last sentence some 300 tokens */
    strcat(content, "The answer is \\\\boxed{42}.");
    const char *usage = "\"usage\":{\"prompt_tokens\":64,\"total_tokens\":364,\"completion_tokens\":300,"
                        "\"prompt_tokens_details\":null}";
    if (api == CHAT)
        snprintf(body, sizeof body,
                 "{\"id\":\"chatcmpl-mock\",\"object\":\"chat.completion\",\"created\":" CREATED ",\"model\":\"mock\","
                 "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"%s\",\"refusal\":null,"
                 "\"tool_calls\":[]},\"logprobs\":null,\"finish_reason\":\"stop\",\"stop_reason\":null}],%s,"
                 "\"prompt_logprobs\":null,\"kv_transfer_params\":null}",
                 content, usage);
    else
        snprintf(body, sizeof body,
                 "{\"id\":\"cmpl-mock\",\"object\":\"text_completion\",\"created\":" CREATED ",\"model\":\"mock\","
                 "\"choices\":[{\"index\":0,\"text\":\"%s\",\"logprobs\":null,\"finish_reason\":\"stop\","
                 "\"stop_reason\":null,\"prompt_logprobs\":null}],%s,\"kv_transfer_params\":null}",
                 content, usage);
    append_response(&answers[api], "200 OK", "application/json", body);
}

static void append_chunk(struct buffer *b, const char *data) { append_format(b, "%zx\r\n%s\r\n", strlen(data), data); }

/* One event. `delta`: the members of a chat delta, or of a text choice. `finish`: a JSON value. */
static void event(char *text, size_t size, enum api api, const char *delta, const char *finish) {
    if (api == CHAT)
        snprintf(text, size,
                 "data: {\"id\":\"chatcmpl-mock\",\"object\":\"chat.completion.chunk\",\"created\":" CREATED ","
                 "\"model\":\"mock\",\"choices\":[{\"index\":0,\"delta\":{%s},\"logprobs\":null,"
                 "\"finish_reason\":%s}]}\n\n",
                 delta, finish);
    else
        snprintf(text, size,
                 "data: {\"id\":\"cmpl-mock\",\"object\":\"text_completion\",\"created\":" CREATED ","
                 "\"model\":\"mock\",\"choices\":[{\"index\":0,%s,\"logprobs\":null,\"finish_reason\":%s,"
                 "\"stop_reason\":null}]}\n\n",
                 delta, finish);
}

static void append_content(struct buffer *b, enum api api, const char *content) {
    char delta[512], text[1024];
    snprintf(delta, sizeof delta, api == CHAT ? "\"content\":\"%s\"" : "\"text\":\"%s\"", content);
    event(text, sizeof text, api, delta, "null");
    append_chunk(b, text);
}

static void append_opening(struct buffer *b, enum api api) {
    char text[1024];
    append_format(b, "HTTP/1.1 200 OK\r\nserver: mock\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
                     "transfer-encoding: chunked\r\n\r\n");
    if (api != CHAT) return;
    event(text, sizeof text, api, "\"role\":\"assistant\",\"content\":\"\"", "null");
    append_chunk(b, text);
}

static void append_ending(struct buffer *b, enum api api) {
    char text[1024];
    event(text, sizeof text, api, api == CHAT ? "" : "\"text\":\"\"", "\"stop\"");
    append_chunk(b, text);
    snprintf(text, sizeof text,
             "data: {\"id\":\"%s\",\"object\":\"%s\",\"created\":" CREATED ",\"model\":\"mock\",\"choices\":[],"
             "\"usage\":{\"prompt_tokens\":64,\"total_tokens\":72,\"completion_tokens\":8}}\n\n",
             api == CHAT ? "chatcmpl-mock" : "cmpl-mock", api == CHAT ? "chat.completion.chunk" : "text_completion");
    append_chunk(b, text);
    append_chunk(b, "data: [DONE]\n\n");
    append_format(b, "0\r\n\r\n");
}

/* The stamped chunk has a fixed size, so only the stamp between its two fixed parts is made anew. */
static void build_paced_chunk(enum api api) {
    struct buffer chunk = {0};
    char hole[STAMP_SIZE + 1];
    memset(hole, '@', STAMP_SIZE);
    hole[STAMP_SIZE] = 0;
    append_content(&chunk, api, hole);
    size_t before = (size_t)((char *)memchr(chunk.data, '@', chunk.end) - chunk.data);
    buffer_append(&paced_prefix[api], chunk.data, before);
    buffer_append(&paced_suffix[api], chunk.data + before + STAMP_SIZE, chunk.end - before - STAMP_SIZE);
    free(chunk.data);
}

static void build(enum api api) {
    build_answer(api);
    append_opening(&streams[api], api);
    append_content(&streams[api], api, "The answer is \\\\boxed{42}.");
    append_ending(&streams[api], api);
    append_opening(&paced_openings[api], api);
    append_ending(&paced_endings[api], api);
    build_paced_chunk(api);
}

/* -- connections -- */

static void watch(int fd, int operation, int want_write) {
    struct epoll_event event = {.events = EPOLLIN | (want_write ? EPOLLOUT : 0), .data.fd = fd};
    if (epoll_ctl(epoll_fd, operation, fd, &event) < 0) die("epoll_ctl");
}

static void drop(int fd) {
    struct connection *c = &connections[fd];
    if (c->paced_stream) running--;
    free(c->in.data);
    free(c->out.data);
    memset(c, 0, sizeof *c);
    close(fd);
}

/* Writes what it can; the rest waits for EPOLLOUT. May drop the connection. */
static void flush(int fd) {
    struct connection *c = &connections[fd];
    while (buffer_size(&c->out)) {
        ssize_t size = send(fd, buffer_head(&c->out), buffer_size(&c->out), MSG_NOSIGNAL);
        if (size < 0 && errno == EINTR) continue;
        if (size < 0 && errno == EAGAIN) break;
        if (size < 0) {
            drop(fd);
            return;
        }
        buffer_consume(&c->out, (size_t)size);
    }
    int pending = buffer_size(&c->out) > 0;
    if (!pending && c->close_after && !c->paced_stream) {
        drop(fd);
        return;
    }
    if (pending != c->want_write) watch(fd, EPOLL_CTL_MOD, c->want_write = pending);
}

static void append_paced_chunk(int fd) {
    struct connection *c = &connections[fd];
    char stamp[STAMP_SIZE + 1];
    snprintf(stamp, sizeof stamp, STAMP_FORMAT, (unsigned)fd, (unsigned)c->paced_stream, (unsigned long long)now_ns());
    buffer_append(&c->out, paced_prefix[c->paced_api].data, paced_prefix[c->paced_api].end);
    buffer_append(&c->out, stamp, STAMP_SIZE);
    buffer_append(&c->out, paced_suffix[c->paced_api].data, paced_suffix[c->paced_api].end);
}

static void start_paced(int fd, enum api api) {
    struct connection *c = &connections[fd];
    running++;
    c->paced_stream = ++last_stream;
    c->paced_api = api;
    buffer_append(&c->out, paced_openings[api].data, paced_openings[api].end);
    append_paced_chunk(fd);
}

static void serve_requests(int fd);

static void on_ack(struct ack ack) {
    if (ack.slot >= MAX_CONNECTIONS || ack.stream == 0 || connections[ack.slot].paced_stream != ack.stream) return;
    int fd = (int)ack.slot;
    struct connection *c = &connections[fd];
    if (!ack.last) {
        append_paced_chunk(fd);
        flush(fd);
        return;
    }
    running--;
    completed++;
    c->paced_stream = 0;
    buffer_append(&c->out, paced_endings[c->paced_api].data, paced_endings[c->paced_api].end);
    serve_requests(fd); /* pipelined ones had to wait */
}

/* -- requests -- */

/* 1: a whole request is there; 0: more bytes are needed; -1: not HTTP that this mock reads. */
static int parse_request(struct buffer *in, struct request *r) {
    const char *head = buffer_head(in), *end = memmem(head, buffer_size(in), "\r\n\r\n", 4);
    if (!end) return buffer_size(in) > 65536 ? -1 : 0;
    size_t head_size = (size_t)(end - head) + 4, value_size;
    const char *space = memchr(head, ' ', head_size);
    const char *stop = space ? memchr(space + 1, ' ', head_size - (size_t)(space + 1 - head)) : NULL;
    if (!stop || header_value(head, head_size, "transfer-encoding", &value_size)) return -1;
    const char *length = header_value(head, head_size, "content-length", &value_size);
    r->is_post = strncmp(head, "POST ", 5) == 0;
    r->target = space + 1;
    r->target_size = (size_t)(stop - r->target);
    r->body = head + head_size;
    r->body_size = length ? strtoul(length, NULL, 10) : 0;
    r->size = head_size + r->body_size;
    r->keep_alive = !header_is(head, head_size, "connection", "close") && strncmp(stop, " HTTP/1.0", 9) != 0;
    return buffer_size(in) >= r->size;
}

static int target_is(const struct request *r, const char *target) {
    return r->target_size == strlen(target) && memcmp(r->target, target, r->target_size) == 0;
}

static int body_has(const struct request *r, const char *text) {
    return memmem(r->body, r->body_size, text, strlen(text)) != NULL;
}

static void serve_completion(int fd, const struct request *r, enum api api) {
    struct connection *c = &connections[fd];
    int streamed = body_has(r, "\"stream\":true") || body_has(r, "\"stream\": true");
    if (streamed && body_has(r, "mock-paced")) {
        start_paced(fd, api);
        return;
    }
    struct buffer *answer = streamed ? &streams[api] : &answers[api];
    buffer_append(&c->out, answer->data, answer->end);
    completed++;
}

static void serve_metrics(struct buffer *out) {
    char text[2048];
    const char *labels = "{engine=\"0\",model_name=\"mock\"}";
    snprintf(text, sizeof text,
             "# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running%s %u.0\n"
             "# TYPE vllm:num_requests_waiting gauge\nvllm:num_requests_waiting%s 0.0\n"
             "# TYPE vllm:kv_cache_usage_perc gauge\nvllm:kv_cache_usage_perc%s 0.0\n"
             "# TYPE vllm:request_success_total counter\n"
             "vllm:request_success_total{engine=\"0\",finished_reason=\"stop\",model_name=\"mock\"} %llu.0\n",
             labels, running, labels, labels, completed);
    append_response(out, "200 OK", "text/plain; version=0.0.4; charset=utf-8", text);
}

static void serve(int fd, const struct request *r) {
    struct connection *c = &connections[fd];
    const char *json = "application/json";
    if (r->is_post && target_is(r, "/v1/chat/completions"))
        serve_completion(fd, r, CHAT);
    else if (r->is_post && target_is(r, "/v1/completions"))
        serve_completion(fd, r, TEXT);
    else if (!r->is_post && target_is(r, "/v1/models"))
        append_response(&c->out, "200 OK", json,
                        "{\"object\":\"list\",\"data\":[{\"id\":\"mock\",\"object\":\"model\",\"created\":" CREATED ","
                        "\"owned_by\":\"vllm\",\"root\":\"mock\",\"parent\":null,\"max_model_len\":32768}]}");
    else if (!r->is_post && target_is(r, "/health"))
        append_response(&c->out, "200 OK", "text/plain", "");
    else if (!r->is_post && target_is(r, "/version"))
        append_response(&c->out, "200 OK", json, "{\"version\":\"0.26.0\"}");
    else if (!r->is_post && target_is(r, "/metrics"))
        serve_metrics(&c->out);
    else
        append_response(&c->out, "404 Not Found", json, "{\"detail\":\"Not Found\"}");
}

/* Serves every whole request in the buffer, in order, and flushes. May drop the connection. */
static void serve_requests(int fd) {
    struct connection *c = &connections[fd];
    struct request request;
    int whole = 0;
    while (!c->paced_stream && !c->close_after && buffer_size(&c->in) && (whole = parse_request(&c->in, &request)) > 0) {
        serve(fd, &request);
        c->close_after = !request.keep_alive;
        buffer_consume(&c->in, request.size);
    }
    if (whole < 0) {
        append_response(&c->out, "411 Length Required", "text/plain", "");
        c->close_after = 1;
    }
    flush(fd);
}

/* -- the loop -- */

static void on_readable(int fd) {
    struct connection *c = &connections[fd];
    buffer_reserve(&c->in, 16384);
    ssize_t size = recv(fd, c->in.data + c->in.end, c->in.capacity - c->in.end, 0);
    if (size < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (size <= 0) {
        drop(fd);
        return;
    }
    c->in.end += (size_t)size;
    serve_requests(fd);
}

static void on_connections(int listener) {
    int fd, one = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        if (fd >= MAX_CONNECTIONS) {
            close(fd);
            continue;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        connections[fd].open = 1;
        watch(fd, EPOLL_CTL_ADD, 0);
    }
}

static void on_acks(int ack_fd) {
    struct ack acks[ACKS_PER_DATAGRAM];
    ssize_t size;
    while ((size = recv(ack_fd, acks, sizeof acks, MSG_DONTWAIT)) > 0)
        for (size_t i = 0; i < (size_t)size / sizeof *acks; i++) on_ack(acks[i]);
}

static int listen_tcp(int port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, 1024) < 0) die("listen");
    return fd;
}

static int listen_acks(int port) {
    int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    struct sockaddr_un address;
    socklen_t size = ack_address(&address, port);
    if (bind(fd, (struct sockaddr *)&address, size) < 0) die("acknowledgement socket");
    return fd;
}

int main(int count, char **arguments) {
    if (count != 2) {
        fprintf(stderr, "usage: %s PORT\n", arguments[0]);
        return 2;
    }
    build(CHAT);
    build(TEXT);
    epoll_fd = epoll_create1(0);
    int listener = listen_tcp(atoi(arguments[1])), ack_fd = listen_acks(atoi(arguments[1]));
    watch(listener, EPOLL_CTL_ADD, 0);
    watch(ack_fd, EPOLL_CTL_ADD, 0);
    struct epoll_event events[EVENTS_PER_WAIT];
    for (;;) {
        int ready = epoll_wait(epoll_fd, events, EVENTS_PER_WAIT, -1);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd == listener)
                on_connections(fd);
            else if (fd == ack_fd)
                on_acks(fd);
            else if (connections[fd].open && (events[i].events & EPOLLOUT))
                flush(fd);
            else if (connections[fd].open)
                on_readable(fd);
        }
    }
}
