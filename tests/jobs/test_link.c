#include "jobs/link.h"
#include "tests/jobs/job_files.h"

#include <pthread.h>

static void send_text(qy_link_t *link, const char *text)
{
    OK(link->send(link, 0, text, strlen(text), &err));
}

static void expect(qy_link_t *link, const char *text)
{
    int peer = -1;
    void *bytes;
    size_t n;
    OK(link->poll(link, &peer, &bytes, &n, &err));
    if (!text) {
        assert_null(bytes);
        return;
    }
    assert_int_equal(peer, 0);
    assert_int_equal(n, strlen(text));
    assert_memory_equal(bytes, text, n);
    free(bytes);
}

static void test_order(void **state)
{
    (void)state;
    qy_link_t *a, *b;
    OK(qy_link_pair(&a, &b, &err));
    assert_int_equal(a->n_peers, 1);
    expect(a, NULL);
    send_text(a, "one");
    send_text(a, "");
    send_text(b, "answer");
    send_text(a, "three");
    expect(b, "one");
    expect(b, "");
    send_text(a, "four");
    expect(b, "three");
    expect(b, "four");
    expect(b, NULL);
    expect(a, "answer");
    expect(a, NULL);
    assert_refused("peer", a->send(a, 1, "x", 1, &err), QY_ERR_ARG, "peer 1");
    send_text(b, "left unread");
    qy_link_destroy(&b);
    assert_null(b);
    expect(a, "left unread"); /* what was sent before the end closed still arrives */
    assert_refused("closed", a->send(a, 0, "x", 1, &err), QY_ERR_COMM, "closed");
    qy_link_destroy(&a);
    qy_link_destroy(&a);
}

enum { N = 20000 };

static void *sender(void *context)
{
    qy_link_t *link = context;
    qy_error_t own;
    for (int i = 0; i < N; i++)
        if (link->send(link, 0, &i, sizeof i, &own) != QY_OK)
            return context;
    return NULL;
}

static void test_two_threads(void **state)
{
    (void)state;
    qy_link_t *a, *b;
    pthread_t thread;
    void *failed = NULL;
    OK(qy_link_pair(&a, &b, &err));
    assert_int_equal(pthread_create(&thread, NULL, sender, a), 0);
    for (int next = 0; next < N;) {
        int peer, value;
        void *bytes;
        size_t n;
        OK(b->poll(b, &peer, &bytes, &n, &err));
        if (!bytes)
            continue;
        assert_int_equal(n, sizeof value);
        memcpy(&value, bytes, sizeof value);
        free(bytes);
        assert_int_equal(value, next++);
    }
    assert_int_equal(pthread_join(thread, &failed), 0);
    assert_null(failed);
    qy_link_destroy(&a);
    qy_link_destroy(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_two_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
