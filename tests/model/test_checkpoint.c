/* Names of models, from the paths where they lie. */
#include <unistd.h>

#include "model/checkpoint.h"
#include "tests/model/scratch.h"

static void check(const char *model, const char *name, const char *origin)
{
    char got[QY_PATH_MAX];
    OK(qy_checkpoint_name(got, model, &err));
    assert_string_equal(got, name);
    OK(qy_checkpoint_origin(got, model, &err));
    assert_string_equal(got, origin);
}

static void make_link(const char *target, const char *name)
{
    assert_int_equal(symlink(target, scratch_path(name)), 0);
}

static void test_names(void **state)
{
    (void)state;
    char got[QY_PATH_MAX], here[QY_PATH_MAX];
    scratch_dir("Some-Model");
    scratch_text("Some-Model/small.Q4_0.gguf", "");
    make_link("Some-Model", "link");
    check(scratch_path("Some-Model"), "Some-Model", "Some-Model");
    check(scratch_path("Some-Model//"), "Some-Model", "Some-Model");
    check(scratch_path("link"), "Some-Model", "Some-Model");
    check(scratch_path("link/small.Q4_0.gguf"), "small.Q4_0", "small.Q4_0");
    REFUSED(qy_checkpoint_name(got, scratch_path("absent"), &err), QY_ERR_IO, "absent");
    assert_non_null(getcwd(here, sizeof here));
    assert_int_equal(chdir(scratch_path("Some-Model")), 0);
    check(".", "Some-Model", "Some-Model");
    check("small.Q4_0.gguf", "small.Q4_0", "small.Q4_0");
    assert_int_equal(chdir(here), 0);
}

/* The folders of the cache, and the files in them that are links, are named by hashes. */
static void test_cache(void **state)
{
    (void)state;
    scratch_dir("hub/models--Some-Org--Tiny-2/snapshots/0123abcd");
    scratch_dir("hub/models--Some-Org--Tiny-2/blobs");
    scratch_text("hub/models--Some-Org--Tiny-2/blobs/fedc9876", "");
    make_link("../../blobs/fedc9876",
              "hub/models--Some-Org--Tiny-2/snapshots/0123abcd/t.Q8_0.gguf");
    make_link("hub/models--Some-Org--Tiny-2/snapshots/0123abcd", "cached");
    check(scratch_path("hub/models--Some-Org--Tiny-2/snapshots/0123abcd"), "Tiny-2",
          "Some-Org/Tiny-2");
    check(scratch_path("cached"), "Tiny-2", "Some-Org/Tiny-2");
    check(scratch_path("cached/t.Q8_0.gguf"), "t.Q8_0", "Some-Org/Tiny-2");
    scratch_dir("hub/models--gpt2/snapshots/0123abcd");
    check(scratch_path("hub/models--gpt2/snapshots/0123abcd"), "gpt2", "gpt2");
    scratch_dir("hub/models--Some--Other/refs");
    check(scratch_path("hub/models--Some--Other/refs"), "refs", "refs");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_cache),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
