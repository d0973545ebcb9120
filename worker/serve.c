#include "worker/serve.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "jobs/protocol.h"
#include "worker/child.h"
#include "worker/e2e_qp.h"
#include "worker/segment_streams.h"

/* A worker that has nothing else to say says so this often. */
static const double alive_interval_s = 1.0;

/* Where polls are further apart, this process itself was away (suspended, or at other work). */
static const double away_s = 1.0;

/* A child that takes less of a processor than this does nothing: threads of a GPU's driver wake up
 * now and then, whatever the task waits for. */
static const double least_share = 1.0 / 6000;

struct qy_server {
    const qy_plan_t *plan;
    qy_link_t *link;
    int rank;
    qy_server_hooks_t hooks;
    char log_path[QY_PATH_MAX];
    qy_child_t *child; /* kept from one task to the next while all end well */
    int busy;          /* it has a task */
    qy_task_t task;    /* which one; of a probe, the task that failed before it */
    int probing;       /* the child looks whether the device, which has failed, works */
    qy_error_t device_error;
    double began, last_sent;
    double looked;  /* at the busy child, last */
    double quiet_s; /* that it has said and done nothing, as far as this process has looked */
    double cpu_s;   /* that it had taken when it last said or did something */
    int halted; /* the child was told to stop: not one for another task */
    int asked;  /* the coordinator knows that this rank was asked to stop */
};

static qy_status_t send(qy_server_t *s, qy_msg_kind_t kind, const void *payload, size_t bytes,
                        qy_error_t *err)
{
    void *message;
    size_t n;
    QY_TRY(qy_message_encode(kind, payload, bytes, &message, &n, err));
    qy_status_t status = s->link->send(s->link, 0, message, n, err);
    free(message);
    s->last_sent = qy_now_s();
    return status;
}

static qy_status_t send_result(qy_server_t *s, qy_msg_kind_t kind, const qy_result_t *result,
                               qy_error_t *err)
{
    void *bytes;
    size_t n;
    QY_TRY(qy_result_encode(result, &bytes, &n, err));
    qy_status_t status = send(s, kind, bytes, n, err);
    free(bytes);
    return status;
}

static qy_status_t say_hello(qy_server_t *s, qy_error_t *err)
{
    qy_hello_t hello = {.rank = s->rank, .pid = getpid()};
    void *bytes;
    size_t n;
    gethostname(hello.host, sizeof hello.host - 1);
    memcpy(hello.plan_hash, s->plan->hash, sizeof hello.plan_hash);
    QY_TRY(qy_hello_encode(&hello, &bytes, &n, err));
    qy_status_t status = send(s, QY_MSG_HELLO, bytes, n, err);
    free(bytes);
    return status;
}

qy_status_t qy_server_create(qy_server_t **out, const qy_plan_t *plan, qy_link_t *link, int rank,
                             const qy_server_hooks_t *hooks, qy_error_t *err)
{
    qy_server_t *s = calloc(1, sizeof *s);
    if (!s)
        return qy_fail(err, QY_ERR_MEMORY, "worker: out of host memory");
    *s = (qy_server_t){.plan = plan, .link = link, .rank = rank, .hooks = *hooks};
    qy_status_t status =
        qy_path(s->log_path, err, "%s/logs/rank-%03d.log", plan->spec.run_dir, rank);
    if (status == QY_OK)
        status = say_hello(s, err);
    if (status != QY_OK)
        qy_server_destroy(&s);
    else
        *out = s;
    return status;
}

void qy_server_destroy(qy_server_t **server)
{
    if (!*server)
        return;
    qy_child_destroy(&(*server)->child);
    free(*server);
    *server = NULL;
}

/* The task has failed with this. */
static qy_status_t answer_failure(qy_server_t *s, const qy_error_t *error, qy_error_t *err)
{
    qy_result_t result = {.task_id = s->task.id,
                          .kind = s->task.kind,
                          .error = *error,
                          .seconds = qy_now_s() - s->began};
    s->busy = 0;
    return send_result(s, QY_MSG_RESULT, &result, err);
}

/* The device works in a process of its own: that attempt is lost, but not the worker. If not, the
 * DEVICE error goes on to the coordinator, which gives this worker nothing any more. */
static qy_status_t answer_probed(qy_server_t *s, const qy_error_t *probe, qy_error_t *err)
{
    qy_error_t error;
    s->probing = 0;
    if (probe->status == QY_ERR_STOPPED) /* which says nothing of the device */
        return answer_failure(s, probe, err);
    if (probe->status == QY_OK)
        qy_fail(&error, QY_ERR_CRASHED, "%.380s; a probe finds the device at work",
                s->device_error.text);
    else
        qy_fail(&error, QY_ERR_DEVICE, "%.240s; a probe fails too: %.200s", s->device_error.text,
                probe->text);
    return answer_failure(s, &error, err);
}

/* The child has said or done something. */
static void hear(qy_server_t *s)
{
    s->looked = qy_now_s();
    s->quiet_s = 0;
    s->cpu_s = s->child ? qy_child_cpu_s(s->child) : 0;
}

/* To the child that is there, or to a fresh one: also where that one has died since its last task,
 * which was nobody's attempt. */
static qy_status_t hand_over(qy_server_t *s, const qy_task_t *task, qy_error_t *err)
{
    if (s->child && qy_child_give(s->child, task, NULL) == QY_OK)
        return QY_OK;
    qy_child_destroy(&s->child);
    QY_TRY(qy_child_start(&s->child, s->log_path, err));
    qy_status_t status = qy_child_give(s->child, task, err);
    if (status != QY_OK)
        qy_child_destroy(&s->child);
    return status;
}

static qy_status_t start_probe(qy_server_t *s, const qy_error_t *device_error, qy_error_t *err)
{
    qy_error_t error;
    qy_task_t probe = s->task;
    probe.kind = QY_TASK_PROBE;
    s->device_error = *device_error;
    s->probing = 1;
    if (hand_over(s, &probe, &error) != QY_OK)
        return answer_probed(s, &error, err);
    hear(s);
    return QY_OK;
}

/* The child has ended with this error, or is gone, or speaks nonsense. */
static qy_status_t child_failed(qy_server_t *s, const qy_error_t *error, qy_error_t *err)
{
    qy_child_destroy(&s->child);
    if (s->probing)
        return answer_probed(s, error, err);
    if (error->status == QY_ERR_DEVICE)
        return start_probe(s, error, err);
    return answer_failure(s, error, err);
}

/* The child's last words. */
static qy_status_t child_answered(qy_server_t *s, const qy_message_t *message, qy_error_t *err)
{
    qy_result_t result;
    qy_error_t error;
    if (qy_result_decode(&result, message->payload, message->bytes, &error) != QY_OK)
        return child_failed(s, &error, err);
    error = result.error;
    qy_result_free(&result);
    if (s->probing || error.status != QY_OK)
        return child_failed(s, &error, err);
    s->busy = 0;
    if (s->halted)
        qy_child_destroy(&s->child);
    return send(s, message->kind, message->payload, message->bytes, err);
}

static qy_status_t start_task(qy_server_t *s, const qy_message_t *message, qy_error_t *err)
{
    qy_error_t error;
    QY_TRY(qy_task_decode(&s->task, message->payload, message->bytes, err));
    s->began = qy_now_s();
    if (s->busy)
        return qy_fail(err, QY_ERR_COMM, "rank %d was given a task while it has one", s->rank);
    if (hand_over(s, &s->task, &error) != QY_OK)
        return answer_failure(s, &error, err);
    s->busy = 1;
    hear(s);
    return QY_OK;
}

static void forward_e2e(void *context, const qy_progress_t *progress)
{
    qy_server_t *s = context;
    void *bytes;
    size_t n;
    if (qy_progress_encode(progress, &bytes, &n, NULL) != QY_OK)
        return;
    send(s, QY_MSG_PROGRESS, bytes, n, NULL);
    free(bytes);
    if (s->hooks.turn)
        s->hooks.turn(s->hooks.context);
}

static qy_status_t run_e2e(qy_server_t *s, qy_error_t *err)
{
    qy_result_t result = {.task_id = -1};
    qy_e2e_share_t share = {0};
    const qy_hooks_t hooks = {.progress = forward_e2e, .context = s, .stop = s->hooks.stop};
    qy_child_destroy(&s->child); /* what it holds of the device is this process's now */
    qy_e2e_run(s->plan, s->hooks.pipe, &hooks, &share, &result.error);
    if (share.alone) {
        if (err)
            *err = result.error;
        return result.error.status;
    }
    double values[] = {share.busy_s, share.wall_s, share.ideal};
    result.seconds = share.total_s;
    result.device_bytes = share.device_bytes;
    result.values = values;
    result.n_values = sizeof values / sizeof *values;
    return send_result(s, QY_MSG_PHASE_DONE, &result, err);
}

static qy_status_t take_message(qy_server_t *s, const void *bytes, size_t n, int *done,
                                qy_error_t *err)
{
    qy_message_t message;
    QY_TRY(qy_message_decode(&message, bytes, n, err));
    qy_status_t status = QY_OK;
    switch (message.kind) {
    case QY_MSG_TASK:
        status = start_task(s, &message, err);
        break;
    case QY_MSG_E2E:
        status = run_e2e(s, err);
        break;
    case QY_MSG_HALT:
        s->halted = 1;
        if (s->busy)
            qy_child_stop(s->child);
        else
            qy_child_destroy(&s->child);
        break;
    case QY_MSG_STOP:
        qy_child_destroy(&s->child);
        qy_segment_streams_sweep(s->plan);
        *done = 1;
        break;
    default:
        status = qy_fail(err, QY_ERR_COMM, "rank %d: message kind %d from the coordinator", s->rank,
                         (int)message.kind);
    }
    qy_message_free(&message);
    return status;
}

/* What the child has to say, passed on. */
static qy_status_t poll_child(qy_server_t *s, qy_error_t *err)
{
    while (s->child) {
        qy_message_t message;
        qy_error_t error;
        char how[64];
        int ended;
        qy_status_t polled = qy_child_poll(s->child, &message, &ended, how, &error);
        if (!s->busy && (polled != QY_OK || ended || message.payload)) {
            qy_message_free(&message);
            qy_child_destroy(&s->child); /* it died, or speaks unasked, between two tasks */
            return QY_OK;
        }
        if (polled != QY_OK)
            return child_failed(s, &error, err);
        if (ended) {
            qy_fail(&error, QY_ERR_CRASHED, "the task's process ended with %s; see %s", how,
                    s->log_path);
            return child_failed(s, &error, err);
        }
        if (!message.payload)
            return QY_OK;
        hear(s);
        qy_status_t status = message.kind == QY_MSG_RESULT
                                 ? child_answered(s, &message, err)
                                 : send(s, message.kind, message.payload, message.bytes, err);
        qy_message_free(&message);
        QY_TRY(status);
    }
    return QY_OK;
}

/* A child that neither says anything nor takes any processor time for resources.worker_timeout is
 * stopped or hangs in a call: it is killed, and the task has failed. */
static qy_status_t watch_child(qy_server_t *s, qy_error_t *err)
{
    double timeout = (double)s->plan->spec.resources.worker_timeout;
    double now = qy_now_s(), gap = now - s->looked;
    if (!s->busy || !s->child)
        return QY_OK;
    double cpu_s = qy_child_cpu_s(s->child);
    if (cpu_s < 0 || cpu_s - s->cpu_s > least_share * timeout) {
        hear(s);
        return QY_OK;
    }
    s->looked = now;
    s->quiet_s += gap < away_s ? gap : 0;
    if (s->quiet_s <= timeout)
        return QY_OK;
    qy_error_t error;
    qy_fail(&error, QY_ERR_CRASHED,
            "the task's process has said and done nothing for %.0f s (resources.worker_timeout), "
            "as where a file system or device hangs; see %.300s",
            timeout, s->log_path);
    return child_failed(s, &error, err);
}

qy_status_t qy_server_poll(qy_server_t *s, int *done, qy_error_t *err)
{
    *done = 0;
    if (!s->asked && s->hooks.stop && *s->hooks.stop) {
        s->asked = 1;
        QY_TRY(send(s, QY_MSG_ASKED, NULL, 0, err));
    }
    while (!*done) {
        void *bytes;
        size_t n;
        int peer;
        QY_TRY(s->link->poll(s->link, &peer, &bytes, &n, err));
        if (!bytes)
            break;
        qy_status_t status = take_message(s, bytes, n, done, err);
        free(bytes);
        QY_TRY(status);
    }
    QY_TRY(poll_child(s, err));
    QY_TRY(watch_child(s, err));
    if (!*done && qy_now_s() - s->last_sent > alive_interval_s)
        return send(s, QY_MSG_ALIVE, NULL, 0, err);
    return QY_OK;
}

void qy_server_wait(const qy_server_t *server, int timeout_ms)
{
    struct pollfd fd = {.fd = server->child ? qy_child_fd(server->child) : -1, .events = POLLIN};
    poll(&fd, 1, timeout_ms);
}
