/* device.json: a run goes on only on the device that it was begun with; and one GPU for each
 * process. */
#include "../jobs/job_files.h"
#include "worker/device_record.h"
#include "worker/memory.h"

static const char *record_path(void)
{
    return path_of("run/device.json");
}

/* A plan on the CPU whose run directory is there and empty. */
static qy_plan_t *cpu_plan(const char *more)
{
    char set[96];
    snprintf(set, sizeof set, "resources={device: cpu, threads: 1%s}", more);
    qy_plan_t *plan = make_plan(TINY_JOB, set, 1);
    OK(qy_memory_plan(plan, &err));
    OK(qy_make_dirs(plan->spec.run_dir, &err));
    remove(record_path());
    return plan;
}

static void test_same_device(void **state)
{
    (void)state;
    qy_device_t *dev = NULL;
    qy_plan_t *plan = cpu_plan("");
    OK(qy_device_record(plan, "1.0", &err));
    OK(qy_device_record(plan, "1.0", &err));
    OK(qy_device_open_recorded(&dev, plan, &err));
    assert_string_equal(dev->kind, "cpu");
    qy_device_close(&dev);
    assert_refused("another build", qy_device_record(plan, "1.1", &err), QY_ERR_ARG,
                   "build \"1.0\"|\"1.1\"|the bytes would differ");
    qy_plan_destroy(&plan);
}

/* What a rank with another GPU model, or with none, comes to. */
static void test_other_device(void **state)
{
    (void)state;
    static const struct {
        const char *device, *model, *words;
    } cases[] = {{"cuda", "NVIDIA H200", "device \"cuda\"|\"cpu\""},
                 {"cpu", "another model", "model \"another model\""}};
    char host[64] = "", words[160], text[512];
    qy_device_t *dev = NULL;
    qy_plan_t *plan = cpu_plan("");
    gethostname(host, sizeof host - 1);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        snprintf(text, sizeof text,
                 "{\"device\": \"%s\", \"model\": \"%s\", \"compute\": \"f32\", \"libraries\": "
                 "\"l\", \"build\": \"1.0\"}",
                 cases[i].device, cases[i].model);
        write_file("run/device.json", text);
        snprintf(words, sizeof words, "%s|%s|begun with", cases[i].words, host);
        assert_refused("a task", qy_device_open_recorded(&dev, plan, &err), QY_ERR_DEVICE, words);
        assert_refused("a start", qy_device_record(plan, "1.0", &err), QY_ERR_ARG, words);
        assert_null(dev);
    }
    write_file("run/device.json", "{");
    assert_refused("torn", qy_device_open_recorded(&dev, plan, &err), QY_ERR_FORMAT, "not JSON");
    qy_plan_destroy(&plan);
}

/* With device: auto, a run begun on a GPU asks for the GPU again and hears why there is none. */
static void test_gpu_is_gone(void **state)
{
    (void)state;
    qy_device_t *dev = NULL;
    qy_plan_t *plan = cpu_plan("");
    snprintf(plan->spec.resources.device, sizeof plan->spec.resources.device, "auto");
    write_file("run/device.json", "{\"device\": \"cuda\", \"model\": \"NVIDIA H200\"}");
    setenv("CUDA_VISIBLE_DEVICES", "", 1);
    assert_int_not_equal(qy_device_open_recorded(&dev, plan, &err), QY_OK);
    assert_non_null(strstr(err.text, "cuda:"));
    assert_null(dev);
    unsetenv("CUDA_VISIBLE_DEVICES");
    qy_plan_destroy(&plan);
}

/* A device is held to the limit, and one that is too small is not opened. */
static void test_too_small(void **state)
{
    (void)state;
    char more[64];
    void *memory = NULL;
    qy_device_t *dev = NULL;
    qy_plan_t *plan = cpu_plan("");
    int64_t bytes = plan->cpu_bytes;
    qy_plan_destroy(&plan);
    snprintf(more, sizeof more, ", gpu_memory: %lld", (long long)bytes);
    plan = cpu_plan(more);
    OK(qy_device_record(plan, "1.0", &err));
    OK(qy_device_open_recorded(&dev, plan, &err));
    assert_int_equal(qy_memory_room(plan, dev, 1), bytes);
    assert_refused("beyond", qy_device_alloc(dev, &memory, (size_t)bytes + 1, &err), QY_ERR_MEMORY,
                   "allowed");
    qy_device_close(&dev);
    plan->spec.resources.gpu_memory = bytes - 1;
    assert_refused("a task", qy_device_open_recorded(&dev, plan, &err), QY_ERR_ARG, "gpu_memory");
    assert_refused("a plan", qy_memory_plan(plan, &err), QY_ERR_ARG, "gpu_memory");
    qy_plan_destroy(&plan);
}

/* Sizes that no machine has are an error and not an overflow. */
static void test_immeasurable(void **state)
{
    (void)state;
    qy_plan_t *plan = cpu_plan("");
    plan->spec.block_ap.batch_size = 65536;
    plan->spec.calibration.sequence_length = 1 << 20;
    plan->arch.hidden = 1LL << 32;
    assert_refused("huge", qy_memory_plan(plan, &err), QY_ERR_ARG, "more than");
    qy_plan_destroy(&plan);
}

static void test_bind(void **state)
{
    (void)state;
    static const struct {
        const char *visible;
        int place;
        const char *bound;
    } cases[] = {{NULL, 0, "0"},    {NULL, 3, "3"},   {"2,5,7", 0, "2"},
                 {"2,5,7", 2, "7"}, {"2,5,7", 3, ""}, {"4", 0, "4"},
                 {"4", 1, "4"},     {"", 1, ""},      {"GPU-a,GPU-b", 1, "GPU-b"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (cases[i].visible)
            setenv("CUDA_VISIBLE_DEVICES", cases[i].visible, 1);
        else
            unsetenv("CUDA_VISIBLE_DEVICES");
        qy_device_bind(cases[i].place, 4);
        assert_string_equal(getenv("CUDA_VISIBLE_DEVICES"), cases[i].bound);
        assert_string_equal(getenv(QY_NODE_WORKERS), "4");
    }
    unsetenv("CUDA_VISIBLE_DEVICES");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gpu_is_gone),  cmocka_unit_test(test_same_device),
        cmocka_unit_test(test_other_device), cmocka_unit_test(test_too_small),
        cmocka_unit_test(test_immeasurable), cmocka_unit_test(test_bind),
    };
    return cmocka_run_group_tests(tests, open_folder, close_folder);
}
