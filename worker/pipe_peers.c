#include "worker/pipe_peers.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "kernels/peers.h"

typedef struct {
    qy_pipe_t pipe; /* first: the interface that callers hold */
    qy_pipe_t *numbers;
    qy_peers_t *peers;
} pipe_peers_t;

static qy_status_t send(qy_pipe_t *pipe, const qy_device_t *dev, int to, const qy_tensor_t *t,
                        qy_error_t *err)
{
    (void)dev;
    return qy_peers_send(((pipe_peers_t *)pipe)->peers, to, t, err);
}

static qy_status_t receive(qy_pipe_t *pipe, const qy_device_t *dev, int from, qy_tensor_t *t,
                           qy_error_t *err)
{
    QY_TRY(qy_peers_receive(((pipe_peers_t *)pipe)->peers, from, t, err));
    return qy_device_wait(dev, err);
}

static qy_status_t gather(qy_pipe_t *pipe, const float *mine, float *all, const int *counts,
                          qy_error_t *err)
{
    qy_pipe_t *numbers = ((pipe_peers_t *)pipe)->numbers;
    return numbers->gather(numbers, mine, all, counts, err);
}

static qy_status_t spread(qy_pipe_t *pipe, float *values, int n, qy_error_t *err)
{
    qy_pipe_t *numbers = ((pipe_peers_t *)pipe)->numbers;
    return numbers->spread(numbers, values, n, err);
}

static void release(qy_pipe_t *pipe)
{
    qy_peers_close(&((pipe_peers_t *)pipe)->peers);
}

static void destroy(qy_pipe_t *pipe)
{
    release(pipe);
    free(pipe);
}

/* Whether all ranks say yes. */
static qy_status_t all_of(qy_pipe_t *numbers, bool mine, bool *all, qy_error_t *err)
{
    size_t n = (size_t)numbers->n_ranks;
    float yes = mine ? 1 : 0, verdict = 1;
    float *votes = malloc(n * sizeof *votes);
    int *counts = calloc(n, sizeof *counts);
    qy_status_t status = votes && counts ? QY_OK : qy_fail(err, QY_ERR_MEMORY, "pipe: no memory");
    for (size_t i = 0; i < n && status == QY_OK; i++)
        counts[i] = 1;
    if (status == QY_OK)
        status = numbers->gather(numbers, &yes, votes, counts, err);
    for (size_t i = 0; i < n && status == QY_OK && numbers->rank == 0; i++)
        verdict = votes[i] < verdict ? votes[i] : verdict;
    if (status == QY_OK)
        status = numbers->spread(numbers, &verdict, 1, err);
    *all = status == QY_OK && verdict > 0;
    free(votes);
    free(counts);
    return status;
}

/* A failure here is no reason to end: MPI carries the same bytes. */
static bool well(qy_status_t status, const qy_error_t *why)
{
    if (status != QY_OK)
        qy_log(QY_LOG_WARN, "e2e_qp goes by MPI: %s", why->text);
    return status == QY_OK;
}

/* Every rank's end of the row, or none on any. */
static qy_status_t open_peers(qy_peers_t **out, qy_pipe_t *numbers, const qy_device_t *dev,
                              qy_error_t *err)
{
    unsigned char id[QY_PEERS_ID] = {0};
    float words[QY_PEERS_ID / sizeof(float)];
    qy_error_t why;
    bool mine = qy_peers_possible(dev), all;
    if (mine && numbers->rank == 0)
        mine = well(qy_peers_id(id, &why), &why);
    QY_TRY(all_of(numbers, mine, &all, err));
    if (!all)
        return QY_OK;
    memcpy(words, id, sizeof id); /* numbers pass through unchanged */
    QY_TRY(numbers->spread(numbers, words, (int)(sizeof words / sizeof *words), err));
    memcpy(id, words, sizeof id);
    mine = well(qy_peers_open(out, dev, id, numbers->rank, numbers->n_ranks, &why), &why);
    qy_status_t status = all_of(numbers, mine, &all, err);
    if (!all)
        qy_peers_close(out);
    return status;
}

qy_status_t qy_pipe_peers_create(qy_pipe_t **out, qy_pipe_t *numbers, const qy_device_t *dev,
                                 qy_error_t *err)
{
    qy_peers_t *peers = NULL;
    *out = NULL;
    QY_TRY(open_peers(&peers, numbers, dev, err));
    if (!peers)
        return QY_OK;
    pipe_peers_t *p = calloc(1, sizeof *p);
    if (!p) {
        qy_peers_close(&peers);
        return qy_fail(err, QY_ERR_MEMORY, "pipe: out of host memory");
    }
    *p = (pipe_peers_t){.pipe = {.rank = numbers->rank,
                                 .n_ranks = numbers->n_ranks,
                                 .send = send,
                                 .receive = receive,
                                 .gather = gather,
                                 .spread = spread,
                                 .release = release,
                                 .destroy = destroy},
                        .numbers = numbers,
                        .peers = peers};
    *out = &p->pipe;
    return QY_OK;
}
