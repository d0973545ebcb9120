#include "worker/pipe_mpi.h"

#include <mpi.h>
#include <stdlib.h>
#include <time.h>

enum { TAG_TENSOR = 1 };

/* Sends that may be under way at once: a rank is at most its micro-batches ahead of its neighbour.
 */
enum { N_BUFFERS = 64 };

typedef struct {
    MPI_Request request;
    void *bytes;
    size_t capacity;
    int busy;
} buffer_t;

typedef struct {
    qy_pipe_t pipe; /* first: the interface that callers hold */
    MPI_Comm comm;
    buffer_t out[N_BUFFERS];
    buffer_t in;
    const qy_device_t *dev; /* whose host memory the buffers are; NULL: there are none */
} pipe_mpi_t;

static qy_status_t check(int code, const char *what, qy_error_t *err)
{
    char text[MPI_MAX_ERROR_STRING];
    int length = 0;
    if (code == MPI_SUCCESS)
        return QY_OK;
    MPI_Error_string(code, text, &length);
    return qy_fail(err, QY_ERR_COMM, "%s: %.*s", what, length, text);
}

/* MPI_Wait spins; a rank that waits for its neighbour leaves its core to others instead. */
static qy_status_t wait_for(MPI_Request *request, qy_error_t *err)
{
    int done = 0;
    for (int turns = 0; !done; turns++) {
        QY_TRY(check(MPI_Test(request, &done, MPI_STATUS_IGNORE), "MPI_Test", err));
        if (!done && turns > 100)
            nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
    }
    return QY_OK;
}

/* Host memory that the device copies to and from at full speed. */
static qy_status_t reserve(pipe_mpi_t *p, const qy_device_t *dev, buffer_t *b, size_t bytes,
                           qy_error_t *err)
{
    if (b->capacity >= bytes)
        return QY_OK;
    p->dev = dev;
    b->capacity = 0;
    qy_device_host_free(dev, &b->bytes);
    QY_TRY(qy_device_host_alloc(dev, &b->bytes, bytes, err));
    b->capacity = bytes;
    return QY_OK;
}

/* A buffer whose last send is through; waits for the first where all are busy. */
static qy_status_t free_buffer(pipe_mpi_t *p, buffer_t **out, qy_error_t *err)
{
    for (int i = 0; i < N_BUFFERS; i++) {
        int done = 1;
        if (p->out[i].busy)
            QY_TRY(check(MPI_Test(&p->out[i].request, &done, MPI_STATUS_IGNORE), "MPI_Test", err));
        if (done) {
            *out = &p->out[i];
            return QY_OK;
        }
    }
    *out = &p->out[0];
    return wait_for(&p->out[0].request, err);
}

/* A row of a tensor: counts of bytes end at 2 GiB. Whoever takes it frees it. */
static qy_status_t row_type(MPI_Datatype *row, const qy_tensor_t *t, qy_error_t *err)
{
    int bytes = (int)(qy_tensor_cols(t) * (int64_t)qy_dtype_bytes(t->dtype));
    QY_TRY(check(MPI_Type_contiguous(bytes, MPI_BYTE, row), "MPI_Type_contiguous", err));
    return check(MPI_Type_commit(row), "MPI_Type_commit", err);
}

static qy_status_t send(qy_pipe_t *pipe, const qy_device_t *dev, int to, const qy_tensor_t *t,
                        qy_error_t *err)
{
    pipe_mpi_t *p = (pipe_mpi_t *)pipe;
    buffer_t *b;
    MPI_Datatype row;
    size_t bytes = qy_tensor_bytes(t);
    QY_TRY(free_buffer(p, &b, err));
    QY_TRY(reserve(p, dev, b, bytes, err));
    QY_TRY(qy_device_download(dev, b->bytes, t->data, bytes, err));
    QY_TRY(row_type(&row, t, err));
    b->busy = 1;
    qy_status_t status = check(
        MPI_Isend(b->bytes, (int)qy_tensor_rows(t), row, to, TAG_TENSOR, p->comm, &b->request),
        "MPI_Isend", err);
    MPI_Type_free(&row);
    return status;
}

static qy_status_t receive(qy_pipe_t *pipe, const qy_device_t *dev, int from, qy_tensor_t *t,
                           qy_error_t *err)
{
    pipe_mpi_t *p = (pipe_mpi_t *)pipe;
    size_t bytes = qy_tensor_bytes(t);
    MPI_Datatype row;
    QY_TRY(qy_device_wait(dev, err)); /* the last upload out of the buffer is through */
    QY_TRY(reserve(p, dev, &p->in, bytes, err));
    QY_TRY(row_type(&row, t, err));
    qy_status_t status = check(MPI_Irecv(p->in.bytes, (int)qy_tensor_rows(t), row, from, TAG_TENSOR,
                                         p->comm, &p->in.request),
                               "MPI_Irecv", err);
    MPI_Type_free(&row);
    QY_TRY(status);
    QY_TRY(wait_for(&p->in.request, err));
    return qy_device_upload(dev, t->data, p->in.bytes, bytes, err);
}

static qy_status_t gather(qy_pipe_t *pipe, const float *mine, float *all, const int *counts,
                          qy_error_t *err)
{
    pipe_mpi_t *p = (pipe_mpi_t *)pipe;
    MPI_Request request;
    int *starts = malloc((size_t)pipe->n_ranks * sizeof *starts), at = 0;
    if (!starts)
        return qy_fail(err, QY_ERR_MEMORY, "pipe: out of host memory");
    for (int r = 0; r < pipe->n_ranks; r++) {
        starts[r] = at;
        at += counts[r];
    }
    qy_status_t status = check(MPI_Igatherv(mine, counts[pipe->rank], MPI_FLOAT, all, counts,
                                            starts, MPI_FLOAT, 0, p->comm, &request),
                               "MPI_Igatherv", err);
    if (status == QY_OK)
        status = wait_for(&request, err);
    free(starts);
    return status;
}

static qy_status_t spread(qy_pipe_t *pipe, float *numbers, int n, qy_error_t *err)
{
    pipe_mpi_t *p = (pipe_mpi_t *)pipe;
    MPI_Request request;
    QY_TRY(check(MPI_Ibcast(numbers, n, MPI_FLOAT, 0, p->comm, &request), "MPI_Ibcast", err));
    return wait_for(&request, err);
}

static void release(qy_pipe_t *pipe)
{
    pipe_mpi_t *p = (pipe_mpi_t *)pipe;
    if (!p->dev)
        return;
    for (int i = 0; i < N_BUFFERS; i++) {
        if (p->out[i].busy)
            wait_for(&p->out[i].request, NULL);
        qy_device_host_free(p->dev, &p->out[i].bytes);
        p->out[i] = (buffer_t){0};
    }
    qy_device_host_free(p->dev, &p->in.bytes);
    p->in = (buffer_t){0};
    p->dev = NULL;
}

static void destroy(qy_pipe_t *pipe)
{
    pipe_mpi_t *p = (pipe_mpi_t *)pipe;
    release(pipe);
    MPI_Comm_free(&p->comm);
    free(p);
}

qy_status_t qy_pipe_mpi_create(qy_pipe_t **out, qy_error_t *err)
{
    pipe_mpi_t *p = calloc(1, sizeof *p);
    if (!p)
        return qy_fail(err, QY_ERR_MEMORY, "pipe: out of host memory");
    p->pipe = (qy_pipe_t){.send = send,
                          .receive = receive,
                          .gather = gather,
                          .spread = spread,
                          .release = release,
                          .destroy = destroy};
    qy_status_t status = check(MPI_Comm_dup(MPI_COMM_WORLD, &p->comm), "MPI_Comm_dup", err);
    if (status == QY_OK)
        status = check(MPI_Comm_rank(p->comm, &p->pipe.rank), "MPI_Comm_rank", err);
    if (status == QY_OK)
        status = check(MPI_Comm_size(p->comm, &p->pipe.n_ranks), "MPI_Comm_size", err);
    if (status != QY_OK) {
        free(p);
        return status;
    }
    *out = &p->pipe;
    return QY_OK;
}
