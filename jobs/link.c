#include "jobs/link.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

typedef struct item {
    struct item *next;
    size_t bytes;
    unsigned char data[];
} item_t;

typedef struct {
    item_t *first, *last;
} queue_t;

/* Shared by both ends, which may live in two threads; freed with the second. */
typedef struct {
    pthread_mutex_t mutex;
    queue_t queue[2]; /* messages for end 0, for end 1 */
    int open[2];
} pipe_t;

typedef struct {
    qy_link_t link; /* first: the public face */
    pipe_t *pipe;
    int side;
} end_t;

static void clear(queue_t *queue)
{
    while (queue->first) {
        item_t *item = queue->first;
        queue->first = item->next;
        free(item);
    }
    queue->last = NULL;
}

static qy_status_t end_send(qy_link_t *link, int peer, const void *bytes, size_t n, qy_error_t *err)
{
    end_t *end = (end_t *)link;
    if (peer != 0)
        return qy_fail(err, QY_ERR_ARG, "link: peer %d of 1", peer);
    item_t *item = malloc(sizeof *item + n);
    if (!item)
        return qy_fail(err, QY_ERR_MEMORY, "link: no memory for a message of %zu bytes", n);
    item->next = NULL;
    item->bytes = n;
    if (n)
        memcpy(item->data, bytes, n);
    pthread_mutex_lock(&end->pipe->mutex);
    queue_t *queue = &end->pipe->queue[!end->side];
    int open = end->pipe->open[!end->side];
    if (open) {
        *(queue->last ? &queue->last->next : &queue->first) = item;
        queue->last = item;
    }
    pthread_mutex_unlock(&end->pipe->mutex);
    if (open)
        return QY_OK;
    free(item);
    return qy_fail(err, QY_ERR_COMM, "link: the other end is closed");
}

static qy_status_t end_poll(qy_link_t *link, int *peer, void **bytes, size_t *n, qy_error_t *err)
{
    end_t *end = (end_t *)link;
    queue_t *queue = &end->pipe->queue[end->side];
    pthread_mutex_lock(&end->pipe->mutex);
    item_t *item = queue->first;
    if (item) {
        queue->first = item->next;
        if (!queue->first)
            queue->last = NULL;
    }
    pthread_mutex_unlock(&end->pipe->mutex);
    *bytes = NULL;
    *n = 0;
    if (!item)
        return QY_OK;
    void *copy = malloc(item->bytes + 1);
    qy_status_t status = QY_OK;
    if (copy) {
        memcpy(copy, item->data, item->bytes);
        *peer = 0;
        *bytes = copy;
        *n = item->bytes;
    } else {
        status =
            qy_fail(err, QY_ERR_MEMORY, "link: no memory for a message of %zu bytes", item->bytes);
    }
    free(item);
    return status;
}

static void end_destroy(qy_link_t *link)
{
    end_t *end = (end_t *)link;
    pipe_t *pipe = end->pipe;
    pthread_mutex_lock(&pipe->mutex);
    pipe->open[end->side] = 0;
    clear(&pipe->queue[end->side]);
    int last = !pipe->open[!end->side];
    pthread_mutex_unlock(&pipe->mutex);
    if (last) {
        pthread_mutex_destroy(&pipe->mutex);
        free(pipe);
    }
    free(end);
}

static end_t *new_end(pipe_t *pipe, int side)
{
    end_t *end = malloc(sizeof *end);
    if (end)
        *end = (end_t){
            .link = {.send = end_send, .poll = end_poll, .destroy = end_destroy, .n_peers = 1},
            .pipe = pipe,
            .side = side};
    return end;
}

qy_status_t qy_link_pair(qy_link_t **coordinator_end, qy_link_t **worker_end, qy_error_t *err)
{
    pipe_t *pipe = calloc(1, sizeof *pipe);
    end_t *ends[2] = {pipe ? new_end(pipe, 0) : NULL, pipe ? new_end(pipe, 1) : NULL};
    if (!ends[0] || !ends[1] || pthread_mutex_init(&pipe->mutex, NULL) != 0) {
        free(ends[0]);
        free(ends[1]);
        free(pipe);
        return qy_fail(err, QY_ERR_MEMORY, "link: out of memory");
    }
    pipe->open[0] = pipe->open[1] = 1;
    *coordinator_end = &ends[0]->link;
    *worker_end = &ends[1]->link;
    return QY_OK;
}

void qy_link_destroy(qy_link_t **link)
{
    if (*link)
        (*link)->destroy(*link);
    *link = NULL;
}
