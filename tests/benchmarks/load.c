/*
 * Load generator: epoll, one thread, closed loop, keep-alive. Prints one line of JSON.
 *
 *   load requests|streams --port PORT [--connections N] [--seconds S] [--warmup S] [--header 'name: value']...
 *                         [--mock-port PORT]
 *
 * requests: each connection sends its next chat completion when the last is answered. Unit: one client request.
 * streams:  each connection holds one paced stream of the mock, with one stamped chunk in flight (net.h), whose delay
 *           is from the mock's write to its arrival here. Unit: one chunk. At the end all streams are ended properly.
 *           --mock-port: the mock's own port, for the acknowledgements (default: PORT).
 */
#include "response.h"

#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>

#define STALL_NS 100000000ull
#define DRAIN_NS 2000000000ull
#define ALL_STARTED_NS 10000000000ull /* streams that have not started by then count as errors */
#define EVENTS_PER_WAIT 32 /* at most one datagram of acknowledgements per wait */

#define QUESTION                                                                                                 \
    "\"model\":\"mock\",\"messages\":[{\"role\":\"system\",\"content\":\"You are a careful mathematician. Think " \
    "step by step, keep every intermediate result, and put the final answer in \\\\boxed{}.\"},{\"role\":\"user\"," \
    "\"content\":\"A shop sells pencils in boxes of 12 and pens in boxes of 9. A school buys 2 boxes of pencils and " \
    "2 boxes of pens. How many more than zero items does it have to store?\"}],\"temperature\":0.7,\"top_p\":0.95," \
    "\"max_tokens\":512"

struct connection {
    int fd;
    struct buffer in, event;
    struct response response;
    uint64_t sent_ns; /* of the request */
    int started;      /* the stream has brought its first stamped chunk */
    int waiting;      /* an answer, or a stream's end, is still to come */
};

struct options {
    int streams, port, mock_port, connections;
    double seconds, warmup_s;
    struct buffer headers;
};

static struct options options = {.connections = 16, .seconds = 3, .warmup_s = 0.5};
static struct buffer request;
static struct connection *connections;
static int epoll_fd, ack_fd;
static struct sockaddr_un ack_to;
static socklen_t ack_to_size;
static struct ack acks[EVENTS_PER_WAIT * 2];
static size_t ack_count;

static uint64_t start_ns, end_ns; /* only what arrives in between counts */
static uint32_t *delays_us10;     /* tenths of a microsecond */
static size_t delay_count, delay_capacity;
static unsigned long total, errors, stalls, started, finished; /* total: with warm-up and drain */

static void record(uint64_t delay_ns, uint64_t arrived_ns) {
    total++;
    if (arrived_ns >= start_ns && delay_ns > STALL_NS) stalls++; /* one that comes after the end is late all the same */
    if (arrived_ns < start_ns || arrived_ns >= end_ns) return;
    if (delay_count == delay_capacity) {
        delay_capacity = delay_capacity ? delay_capacity * 2 : 1 << 18;
        if (!(delays_us10 = realloc(delays_us10, delay_capacity * sizeof *delays_us10))) die("realloc");
    }
    delays_us10[delay_count++] = (uint32_t)(delay_ns / 100);
}

static void open_window(uint64_t warmup_from_ns) {
    start_ns = warmup_from_ns + (uint64_t)(options.warmup_s * 1e9);
    end_ns = start_ns + (uint64_t)(options.seconds * 1e9);
}

/* -- connections -- */

static void connect_to_server(struct connection *c) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)options.port)};
    int one = 1;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address) < 0) die("connect");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &event);
}

static void send_request(struct connection *c) {
    memset(&c->response, 0, sizeof c->response);
    c->waiting = 1;
    c->sent_ns = now_ns();
    /* some hundred bytes into an empty socket buffer: never partial; a dead peer shows at the next read */
    (void)!send(c->fd, request.data, request.end, MSG_NOSIGNAL);
}

static void reconnect(struct connection *c) {
    close(c->fd);
    buffer_clear(&c->in);
    buffer_clear(&c->event);
    connect_to_server(c);
}

/* -- stamped chunks -- */

static void send_acks(void) {
    if (!ack_count) return;
    if (sendto(ack_fd, acks, ack_count * sizeof *acks, 0, (struct sockaddr *)&ack_to, ack_to_size) < 0) die("acknowledge");
    ack_count = 0;
}

/* Warm-up begins when the last stream has started, so that only steady relaying is measured. */
static void on_stream_start(struct connection *c, uint64_t now) {
    c->started = 1;
    if (++started == (unsigned long)options.connections && now < start_ns) open_window(now);
}

static void on_event(struct connection *c, const char *text) {
    unsigned slot, stream;
    unsigned long long stamp_ns;
    const char *stamp = strchr(text, '@');
    if (!stamp || sscanf(stamp, "@%u.%u.%llu", &slot, &stream, &stamp_ns) != 3) return;
    uint64_t now = now_ns();
    if (!c->started) on_stream_start(c, now);
    record(now > stamp_ns ? now - stamp_ns : 0, now);
    acks[ack_count++] = (struct ack){.slot = slot, .stream = stream, .last = now >= end_ns};
    if (ack_count == ACKS_PER_DATAGRAM) send_acks();
}

/* Body bytes of a stream: events end in an empty line. */
static void on_stream_body(void *context, const char *data, size_t size) {
    struct connection *c = context;
    buffer_append(&c->event, data, size);
    char *end;
    while ((end = memmem(buffer_head(&c->event), buffer_size(&c->event), "\n\n", 2))) {
        *end = 0;
        on_event(c, buffer_head(&c->event));
        buffer_consume(&c->event, (size_t)(end - buffer_head(&c->event)) + 2);
    }
}

static void ignore_body(void *context, const char *data, size_t size) { (void)context, (void)data, (void)size; }

/* -- answers -- */

static void on_whole_answer(struct connection *c) {
    uint64_t now = now_ns();
    c->waiting = 0;
    if (c->response.status != 200) {
        errors++;
    } else if (options.streams) {
        finished++;
    } else {
        record(now - c->sent_ns, now);
    }
    if (options.streams || now >= end_ns) return;
    if (c->response.closes) reconnect(c);
    send_request(c);
}

static void on_broken(struct connection *c) {
    errors++;
    c->waiting = 0;
    if (options.streams || now_ns() >= end_ns || errors > 1000) {
        epoll_ctl(epoll_fd, EPOLL_CTL_DEL, c->fd, NULL);
        return;
    }
    reconnect(c);
    send_request(c);
}

static void on_readable(struct connection *c) {
    buffer_reserve(&c->in, 16384);
    ssize_t size = recv(c->fd, c->in.data + c->in.end, c->in.capacity - c->in.end, 0);
    if (size < 0 && errno == EINTR) return;
    if (size <= 0 && !c->waiting) { /* an idle connection: the server may close it */
        epoll_ctl(epoll_fd, EPOLL_CTL_DEL, c->fd, NULL);
        return;
    }
    if (size <= 0) {
        on_broken(c);
        return;
    }
    c->in.end += (size_t)size;
    switch (parse_response(&c->response, &c->in, options.streams ? on_stream_body : ignore_body, c)) {
        case WHOLE: on_whole_answer(c); break;
        case BROKEN: on_broken(c); break;
        case NEED_MORE: break;
    }
}

static int any_waiting(void) {
    for (int i = 0; i < options.connections; i++)
        if (connections[i].waiting) return 1;
    return 0;
}

static void run(void) {
    struct epoll_event events[EVENTS_PER_WAIT];
    for (;;) {
        uint64_t now = now_ns();
        if (now >= end_ns + DRAIN_NS || (now >= end_ns && !any_waiting())) return;
        int ready = epoll_wait(epoll_fd, events, EVENTS_PER_WAIT, 100);
        for (int i = 0; i < ready; i++) on_readable(events[i].data.ptr);
        send_acks();
    }
}

/* -- the report -- */

static int by_value(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static double quantile_us(double q) {
    return delay_count ? delays_us10[(size_t)(q * (double)(delay_count - 1))] / 10.0 : 0.0;
}

/* A chunk that never came leaves no delay: what is still owed at the end is an error, and a stall of its own. */
static void count_unanswered(void) {
    for (int i = 0; i < options.connections; i++) {
        if (!connections[i].waiting) continue;
        errors++;
        stalls += options.streams;
    }
}

static void report(void) {
    count_unanswered();
    qsort(delays_us10, delay_count, sizeof *delays_us10, by_value);
    printf("{\"mode\":\"%s\",\"connections\":%d,\"seconds\":%.3f,\"count\":%zu,\"total\":%lu,"
           "\"per_second\":%.1f,\"p50_us\":%.1f,\"p99_us\":%.1f,\"max_us\":%.1f,\"errors\":%lu,\"stalls\":%lu,\"streams_started\":%lu,"
           "\"streams_finished\":%lu}\n",
           options.streams ? "streams" : "requests", options.connections, options.seconds, delay_count, total,
           (double)delay_count / options.seconds, quantile_us(0.5), quantile_us(0.99), quantile_us(1.0), errors,
           options.streams ? stalls : 0, started, finished);
}

/* -- start -- */

static void usage(void) {
    fprintf(stderr, "usage: load requests|streams --port PORT [--connections N] [--seconds S] [--warmup S] "
                    "[--header 'name: value']... [--mock-port PORT]\n");
    exit(2);
}

static void parse_options(int count, char **arguments) {
    static const struct option known[] = {{"port", 1, 0, 'p'},    {"connections", 1, 0, 'c'}, {"seconds", 1, 0, 's'},
                                          {"warmup", 1, 0, 'w'},  {"header", 1, 0, 'h'},      {"mock-port", 1, 0, 'm'},
                                          {0, 0, 0, 0}};
    for (int option; (option = getopt_long(count, arguments, "", known, NULL)) != -1;) switch (option) {
            case 'p': options.port = atoi(optarg); break;
            case 'c': options.connections = atoi(optarg); break;
            case 's': options.seconds = atof(optarg); break;
            case 'w': options.warmup_s = atof(optarg); break;
            case 'm': options.mock_port = atoi(optarg); break;
            case 'h':
                buffer_append(&options.headers, optarg, strlen(optarg));
                buffer_append(&options.headers, "\r\n", 2);
                break;
            default: usage();
        }
    if (optind != count - 1 || options.port <= 0 || options.connections <= 0 || options.seconds <= 0) usage();
    options.streams = strcmp(arguments[optind], "streams") == 0;
    if (!options.streams && strcmp(arguments[optind], "requests") != 0) usage();
    if (!options.mock_port) options.mock_port = options.port;
}

static void build_request(void) {
    const char *body = options.streams ? "{" QUESTION ",\"stream\":true,\"user\":\"mock-paced\"}" : "{" QUESTION "}";
    char head[512];
    int size = snprintf(head, sizeof head,
                        "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:%d\r\naccept: */*\r\n"
                        "content-type: application/json\r\ncontent-length: %zu\r\n",
                        options.port, strlen(body));
    buffer_append(&request, head, (size_t)size);
    buffer_append(&request, options.headers.data, options.headers.end);
    buffer_append(&request, "\r\n", 2);
    buffer_append(&request, body, strlen(body));
}

int main(int count, char **arguments) {
    parse_options(count, arguments);
    build_request();
    epoll_fd = epoll_create1(0);
    ack_fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    ack_to_size = ack_address(&ack_to, options.mock_port);
    if (!(connections = calloc((size_t)options.connections, sizeof *connections))) die("calloc");
    /* all of them first: while a blocking connect waits, for a full accept queue say, nothing is read */
    for (int i = 0; i < options.connections; i++) connect_to_server(&connections[i]);
    open_window(now_ns() + (options.streams ? ALL_STARTED_NS : 0));
    for (int i = 0; i < options.connections; i++) send_request(&connections[i]);
    run();
    report();
    return 0;
}
