#define _GNU_SOURCE /* posix_spawn_file_actions_addclosefrom_np, malloc_trim */
#include "worker/child.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "worker/run_task.h"

extern char **environ;

enum { CHILD_FD = 3 };

/* That a process may take to end: a GPU's context and hundreds of GB of memory are given back. */
static const double end_s = 30;

struct qy_child {
    pid_t pid; /* 0: reaped */
    int fd;
    char *buffer;
    size_t used, capacity;
    int closed; /* the socket has ended */
};

/* The launcher's variables would make the child think that it is a rank. The caller frees the
 * array. */
static char **clean_environment(void)
{
    static const char *const prefixes[] = {"OMPI_", "PMIX_", "PMI_", "PRTE_", "ORTE_"};
    size_t n = 0, kept = 0;
    while (environ[n])
        n++;
    char **out = malloc((n + 1) * sizeof *out);
    if (!out)
        return NULL;
    for (size_t i = 0; i < n; i++) {
        int drop = 0;
        for (size_t p = 0; p < sizeof prefixes / sizeof *prefixes; p++)
            drop |= strncmp(environ[i], prefixes[p], strlen(prefixes[p])) == 0;
        if (!drop)
            out[kept++] = environ[i];
    }
    out[kept] = NULL;
    return out;
}

static int spawn(pid_t *pid, int child_end, const char *log_path)
{
    char parent[24];
    char *const argv[] = {(char *)"quarry",
                          (char *)"task",
                          (char *)"--fd",
                          (char *)"3",
                          (char *)"--parent",
                          parent,
                          NULL};
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t held; /* a request to stop waits until the child can hear it */
    char **environment = clean_environment();
    if (!environment)
        return ENOMEM;
    snprintf(parent, sizeof parent, "%lld", (long long)getpid());
    sigemptyset(&held);
    sigaddset(&held, SIGINT);
    sigaddset(&held, SIGTERM);
    sigaddset(&held, SIGUSR1);
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setsigmask(&attributes, &held);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, log_path,
                                     O_WRONLY | O_CREAT | O_APPEND, 0644);
    posix_spawn_file_actions_adddup2(&actions, STDOUT_FILENO, STDERR_FILENO);
    posix_spawn_file_actions_adddup2(&actions, child_end, CHILD_FD);
    posix_spawn_file_actions_addclosefrom_np(&actions, CHILD_FD + 1);
    int code = posix_spawn(pid, "/proc/self/exe", &actions, &attributes, argv, environment);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    free(environment);
    return code;
}

/* All of it, or COMM: who reads has gone, or does not read. */
static qy_status_t send_all(int fd, const char *bytes, size_t n, qy_error_t *err)
{
    while (n > 0) {
        ssize_t sent = send(fd, bytes, n, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0)
            return qy_fail(err, QY_ERR_COMM, "task's process: %s", strerror(errno));
        bytes += sent;
        n -= (size_t)sent;
    }
    return QY_OK;
}

static qy_status_t send_message(int fd, qy_msg_kind_t kind, const void *payload, size_t bytes,
                                qy_error_t *err)
{
    void *message;
    size_t n;
    QY_TRY(qy_message_encode(kind, payload, bytes, &message, &n, err));
    qy_status_t status = send_all(fd, message, n, err);
    free(message);
    return status;
}

qy_status_t qy_child_start(qy_child_t **out, const char *log_path, qy_error_t *err)
{
    int ends[2];
    qy_child_t *child = calloc(1, sizeof *child);
    if (!child)
        return qy_fail(err, QY_ERR_MEMORY, "task's process: out of host memory");
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
        free(child);
        return qy_fail(err, QY_ERR_IO, "task's process: socketpair: %s", strerror(errno));
    }
    child->fd = ends[0];
    int code = spawn(&child->pid, ends[1], log_path);
    close(ends[1]);
    if (code) {
        child->pid = 0;
        qy_child_destroy(&child);
        return qy_fail(err, QY_ERR_IO, "task's process: cannot start: %s", strerror(code));
    }
    fcntl(child->fd, F_SETFL, fcntl(child->fd, F_GETFL) | O_NONBLOCK);
    *out = child;
    return QY_OK;
}

qy_status_t qy_child_give(qy_child_t *child, const qy_task_t *task, qy_error_t *err)
{
    void *bytes;
    size_t n;
    QY_TRY(qy_task_encode(task, &bytes, &n, err));
    qy_status_t status = send_message(child->fd, QY_MSG_TASK, bytes, n, err);
    free(bytes);
    return status;
}

double qy_child_cpu_s(const qy_child_t *child)
{
    clockid_t clock;
    struct timespec t;
    if (clock_getcpuclockid(child->pid, &clock) != 0 || clock_gettime(clock, &t) != 0)
        return -1;
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int qy_child_fd(const qy_child_t *child)
{
    return child->fd;
}

/* Takes in what has arrived; sets closed at the end of the stream. */
static qy_status_t fill(qy_child_t *child, qy_error_t *err)
{
    while (!child->closed) {
        if (child->capacity - child->used < 4096) {
            size_t larger = child->capacity ? 2 * child->capacity : 1 << 16;
            char *buffer = larger <= QY_MESSAGE_MAX * 2u ? realloc(child->buffer, larger) : NULL;
            if (!buffer)
                return qy_fail(err, QY_ERR_MEMORY, "task's process: no room for its messages");
            child->buffer = buffer;
            child->capacity = larger;
        }
        ssize_t n = read(child->fd, child->buffer + child->used, child->capacity - child->used);
        if (n > 0)
            child->used += (size_t)n;
        else if (n == 0 || (errno != EINTR && errno != EAGAIN))
            child->closed = 1;
        else if (errno == EAGAIN)
            break;
    }
    return QY_OK;
}

static void describe(int wait_status, char how[64])
{
    if (WIFSIGNALED(wait_status))
        snprintf(how, 64, "signal %d (%s)", WTERMSIG(wait_status),
                 strsignal(WTERMSIG(wait_status)));
    else
        snprintf(how, 64, "exit code %d", WEXITSTATUS(wait_status));
}

/* 1 where it has ended. In a call that nothing interrupts it does so, killed, only when that
 * returns: then it is not waited for any longer. */
static int reap(qy_child_t *child, int *wait_status)
{
    const struct timespec nap = {.tv_nsec = 1000000};
    double end = qy_now_s() + end_s;
    pid_t ended;
    while ((ended = waitpid(child->pid, wait_status, WNOHANG)) == 0 && qy_now_s() < end)
        nanosleep(&nap, NULL);
    if (ended == 0)
        kill(child->pid, SIGKILL);
    child->pid = 0;
    return ended != 0;
}

qy_status_t qy_child_poll(qy_child_t *child, qy_message_t *message, int *ended, char how[64],
                          qy_error_t *err)
{
    size_t total = 0;
    *message = (qy_message_t){0};
    *ended = 0;
    QY_TRY(fill(child, err));
    if (child->used >= QY_FRAME_BYTES)
        QY_TRY(qy_message_length(child->buffer, child->used, &total, err));
    if (total > 0 && child->used >= total) {
        QY_TRY(qy_message_decode(message, child->buffer, total, err));
        memmove(child->buffer, child->buffer + total, child->used - total);
        child->used -= total;
        return QY_OK;
    }
    if (!child->closed)
        return QY_OK;
    int wait_status = 0;
    if (reap(child, &wait_status))
        describe(wait_status, how);
    else
        snprintf(how, 64, "its socket closed, but hangs");
    *ended = 1;
    return QY_OK;
}

void qy_child_stop(const qy_child_t *child)
{
    if (child->pid > 0)
        kill(child->pid, SIGTERM);
}

void qy_child_destroy(qy_child_t **child)
{
    qy_child_t *c = *child;
    if (!c)
        return;
    if (c->pid > 0) {
        int wait_status;
        kill(c->pid, SIGKILL);
        reap(c, &wait_status);
    }
    close(c->fd);
    free(c->buffer);
    free(c);
    *child = NULL;
}

/* --- the child's side ------------------------------------------------------------------------ */

qy_status_t qy_child_settle(long long parent, qy_error_t *err)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) /* it died before the signal was set; in a container it may be 1 */
        return qy_fail(err, QY_ERR_COMM, "the worker that started this task is gone");
    FILE *f = fopen("/proc/self/oom_score_adj", "we");
    if (f) {
        fputs("1000", f);
        fclose(f);
    }
    return QY_OK;
}

typedef struct {
    int fd;
    int32_t task_id;
} reporter_t;

static void report(void *context, const qy_progress_t *progress)
{
    const reporter_t *r = context;
    qy_progress_t p = *progress;
    void *bytes;
    size_t n;
    p.task_id = r->task_id;
    if (qy_progress_encode(&p, &bytes, &n, NULL) != QY_OK)
        return;
    send_message(r->fd, QY_MSG_PROGRESS, bytes, n, NULL); /* a dead parent ends us anyway */
    free(bytes);
}

/* *any: 0 where the worker has closed its end and there is nothing more to do. */
static qy_status_t receive_task(int fd, qy_task_t *task, int *any, qy_error_t *err)
{
    char frame[QY_FRAME_BYTES];
    size_t total = 0, have = 0;
    char *bytes = malloc(QY_FRAME_BYTES + 2 * sizeof *task);
    qy_status_t status = QY_OK;
    if (!bytes)
        return qy_fail(err, QY_ERR_MEMORY, "task: out of host memory");
    *any = 1;
    while (status == QY_OK && (total == 0 || have < total)) {
        size_t want = total ? total - have : sizeof frame - have;
        ssize_t n = read(fd, bytes + have, want);
        if (n < 0 && errno == EINTR)
            continue;
        if (n == 0 && have == 0) {
            *any = 0;
            free(bytes);
            return QY_OK;
        }
        if (n <= 0) {
            status = qy_fail(err, QY_ERR_COMM, "the task did not arrive");
            break;
        }
        have += (size_t)n;
        if (total == 0 && have == sizeof frame) {
            status = qy_message_length(bytes, have, &total, err);
            if (status == QY_OK && total > QY_FRAME_BYTES + 2 * sizeof *task)
                status = qy_fail(err, QY_ERR_FORMAT, "task of %zu bytes", total);
        }
    }
    qy_message_t message = {0};
    if (status == QY_OK)
        status = qy_message_decode(&message, bytes, total, err);
    if (status == QY_OK)
        status = message.kind == QY_MSG_TASK
                     ? qy_task_decode(task, message.payload, message.bytes, err)
                     : qy_fail(err, QY_ERR_FORMAT, "message kind %d, not a task", message.kind);
    qy_message_free(&message);
    free(bytes);
    return status;
}

/* One task; *well: it has ended so that this process may take another. */
static qy_status_t serve_one(int fd, const qy_task_t *task, const atomic_int *stop, int *well,
                             qy_error_t *err)
{
    qy_result_t result;
    void *bytes;
    size_t n;
    reporter_t reporter = {.fd = fd, .task_id = task->id};
    const qy_hooks_t hooks = {.progress = report, .context = &reporter, .stop = stop};
    qy_run_task(task, &hooks, &result);
    malloc_trim(0); /* what a task has freed is there for all of the node's processes */
    *well = result.error.status == QY_OK;
    qy_status_t status = qy_result_encode(&result, &bytes, &n, err);
    if (status == QY_OK) {
        status = send_message(fd, QY_MSG_RESULT, bytes, n, err);
        free(bytes);
    }
    qy_result_free(&result);
    return status;
}

qy_status_t qy_child_serve(int fd, const atomic_int *stop, qy_error_t *err)
{
    qy_task_t task;
    int any = 1, well = 1;
    while (well) {
        QY_TRY(receive_task(fd, &task, &any, err));
        if (!any)
            return QY_OK;
        QY_TRY(serve_one(fd, &task, stop, &well, err));
    }
    return QY_OK;
}
