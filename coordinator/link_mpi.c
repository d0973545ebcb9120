#include "coordinator/link_mpi.h"

#include <limits.h>
#include <mpi.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"

enum { TAG_MESSAGE = 1, START_S = 300, END_S = 60 };

/* That a message on its way to a rank that does not take it may keep this one at the end. */
static const double last_words_s = 10;

/* One message on its way out; MPI reads the bytes until the request is done. */
typedef struct sending {
    MPI_Request request;
    void *bytes;
    struct sending *next;
} sending_t;

typedef struct {
    qy_link_t link; /* first: the interface that callers hold */
    MPI_Comm comm;
    qy_link_t *local;
    sending_t *sending;
} link_mpi_t;

int qy_mpi_launched(void)
{
    static const char *const marks[] = {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"};
    for (size_t i = 0; i < sizeof marks / sizeof *marks; i++)
        if (getenv(marks[i]))
            return 1;
    return 0;
}

static qy_status_t check(int code, const char *what, qy_error_t *err)
{
    char text[MPI_MAX_ERROR_STRING];
    int length = 0;
    if (code == MPI_SUCCESS)
        return QY_OK;
    MPI_Error_string(code, text, &length);
    return qy_fail(err, QY_ERR_COMM, "%s: %.*s", what, length, text);
}

/* Ends the process, so that the launcher notices and ends the others. */
static void give_up(int signal_number)
{
    static const char text[] = "quarry: the ranks do not find each other: one may have died while "
                               "it started; QUARRY_START_S says how long to wait\n";
    (void)signal_number;
    (void)!write(STDERR_FILENO, text, sizeof text - 1);
    _exit(EXIT_FAILURE);
}

/* Seconds to wait for the other ranks, from the environment or as usual. */
static unsigned seconds_of(const char *name, unsigned usual)
{
    const char *text = getenv(name);
    long s = text ? strtol(text, NULL, 10) : 0;
    return s > 0 && s < INT_MAX ? (unsigned)s : usual;
}

/* MPI_Init waits for every rank of the launch, also for one that will never come. */
static qy_status_t init(qy_error_t *err)
{
    struct sigaction action = {.sa_handler = give_up}, before;
    int provided;
    sigemptyset(&action.sa_mask);
    sigaction(SIGALRM, &action, &before);
    alarm(seconds_of("QUARRY_START_S", START_S));
    /* The heartbeat's thread never calls MPI. */
    qy_status_t status =
        check(MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided), "MPI_Init", err);
    alarm(0);
    sigaction(SIGALRM, &before, NULL);
    return status;
}

qy_status_t qy_mpi_begin(int *rank, int *n_ranks, qy_error_t *err)
{
    QY_TRY(init(err));
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    QY_TRY(check(MPI_Comm_rank(MPI_COMM_WORLD, rank), "MPI_Comm_rank", err));
    return check(MPI_Comm_size(MPI_COMM_WORLD, n_ranks), "MPI_Comm_size", err);
}

int qy_mpi_place(int *n)
{
    MPI_Comm node;
    int place = 0;
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node);
    MPI_Comm_rank(node, &place);
    MPI_Comm_size(node, n);
    MPI_Comm_free(&node);
    return place;
}

/* Every rank has come here, as far as rank 0 would wait for it; the others wait for rank 0. */
static int all_come(int rank)
{
    const struct timespec nap = {.tv_nsec = 1000000};
    double end = qy_now_s() + seconds_of("QUARRY_END_S", END_S);
    MPI_Request request;
    int come = 0;
    MPI_Ibarrier(MPI_COMM_WORLD, &request);
    while (MPI_Test(&request, &come, MPI_STATUS_IGNORE) == MPI_SUCCESS && !come &&
           (rank > 0 || qy_now_s() < end))
        nanosleep(&nap, NULL);
    return come;
}

int qy_mpi_end(int code)
{
    int rank = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    code = qy_mpi_agree(code);
    if (!all_come(rank)) {
        fprintf(stderr, "quarry: the run is over, but a rank does not come to its end and is left "
                        "behind; QUARRY_END_S says how long to wait\n");
        qy_mpi_abort(code);
    }
    MPI_Finalize();
    return code;
}

void qy_mpi_abort(int code)
{
    MPI_Abort(MPI_COMM_WORLD, code);
}

int qy_mpi_agree(int code)
{
    MPI_Bcast(&code, 1, MPI_INT, 0, MPI_COMM_WORLD);
    return code;
}

/* Frees what has gone out; counts what has not. */
static qy_status_t reap(link_mpi_t *l, int *left, qy_error_t *err)
{
    *left = 0;
    for (sending_t **at = &l->sending; *at;) {
        sending_t *s = *at;
        int done = 0;
        QY_TRY(check(MPI_Test(&s->request, &done, MPI_STATUS_IGNORE), "MPI_Test", err));
        if (done) {
            *at = s->next;
            free(s->bytes);
            free(s);
        } else {
            ++*left;
            at = &s->next;
        }
    }
    return QY_OK;
}

static qy_status_t send(qy_link_t *link, int peer, const void *bytes, size_t n, qy_error_t *err)
{
    link_mpi_t *l = (link_mpi_t *)link;
    if (peer < 0 || peer >= link->n_peers)
        return qy_fail(err, QY_ERR_COMM, "message for peer %d of %d", peer, link->n_peers);
    if (l->local && peer == 0)
        return l->local->send(l->local, 0, bytes, n, err);
    sending_t *s = calloc(1, sizeof *s);
    void *copy = malloc(n);
    if (!s || !copy) {
        free(s);
        free(copy);
        return qy_fail(err, QY_ERR_MEMORY, "message of %zu bytes: out of host memory", n);
    }
    memcpy(copy, bytes, n);
    *s = (sending_t){.bytes = copy, .next = l->sending};
    l->sending = s;
    return check(MPI_Isend(copy, (int)n, MPI_BYTE, peer, TAG_MESSAGE, l->comm, &s->request),
                 "MPI_Isend", err);
}

static qy_status_t poll_mpi(link_mpi_t *l, int *peer, void **bytes, size_t *n, qy_error_t *err)
{
    MPI_Message message;
    MPI_Status status;
    int there = 0, count = 0, left;
    QY_TRY(reap(l, &left, err));
    QY_TRY(check(MPI_Improbe(MPI_ANY_SOURCE, TAG_MESSAGE, l->comm, &there, &message, &status),
                 "MPI_Improbe", err));
    if (!there)
        return QY_OK;
    MPI_Get_count(&status, MPI_BYTE, &count);
    void *buffer = malloc(count > 0 ? (size_t)count : 1);
    if (!buffer)
        return qy_fail(err, QY_ERR_MEMORY, "message of %d bytes: out of host memory", count);
    qy_status_t result =
        check(MPI_Mrecv(buffer, count, MPI_BYTE, &message, &status), "MPI_Mrecv", err);
    if (result != QY_OK) {
        free(buffer);
        return result;
    }
    *peer = status.MPI_SOURCE;
    *bytes = buffer;
    *n = (size_t)count;
    return QY_OK;
}

static qy_status_t poll(qy_link_t *link, int *peer, void **bytes, size_t *n, qy_error_t *err)
{
    link_mpi_t *l = (link_mpi_t *)link;
    *bytes = NULL;
    if (l->local) {
        QY_TRY(l->local->poll(l->local, peer, bytes, n, err));
        *peer = 0;
        if (*bytes)
            return QY_OK;
    }
    return poll_mpi(l, peer, bytes, n, err);
}

/* Waits for what is on its way: the last message is the one that lets workers go. What a silent
 * rank never takes stays MPI's. */
static void destroy(qy_link_t *link)
{
    link_mpi_t *l = (link_mpi_t *)link;
    double end = qy_now_s() + last_words_s;
    int left = 1;
    while (left > 0 && qy_now_s() < end && reap(l, &left, NULL) == QY_OK)
        ;
    MPI_Comm_free(&l->comm);
    free(l);
}

qy_status_t qy_link_mpi_create(qy_link_t **out, qy_link_t *local, qy_error_t *err)
{
    link_mpi_t *l = calloc(1, sizeof *l);
    if (!l)
        return qy_fail(err, QY_ERR_MEMORY, "link: out of host memory");
    l->link = (qy_link_t){.send = send, .poll = poll, .destroy = destroy, .n_peers = 1};
    l->local = local;
    qy_status_t status = check(MPI_Comm_dup(MPI_COMM_WORLD, &l->comm), "MPI_Comm_dup", err);
    if (status == QY_OK && local)
        status = check(MPI_Comm_size(l->comm, &l->link.n_peers), "MPI_Comm_size", err);
    if (status != QY_OK) {
        free(l);
        return status;
    }
    *out = &l->link;
    return QY_OK;
}
