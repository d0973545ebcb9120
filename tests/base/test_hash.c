/* Hashes: published vectors, whole files, a missing file. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/hash.h"

static void hex_of(char hex[QY_SHA256_HEX], const char *text, size_t step)
{
    qy_error_t err = {0};
    qy_sha256_t *h = NULL;
    assert_int_equal(qy_sha256_create(&h, &err), QY_OK);
    size_t n = strlen(text);
    for (size_t at = 0; at < n; at += step)
        qy_sha256_add(h, text + at, n - at < step ? n - at : step);
    qy_sha256_finish(&h, hex);
    assert_null(h);
}

/* FIPS 180-2, appendix B. */
static void test_sha256(void **state)
{
    (void)state;
    char hex[QY_SHA256_HEX];
    hex_of(hex, "abc", 100);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    for (size_t step = 1; step < 60; step += 7) {
        hex_of(hex, "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", step);
        assert_string_equal(hex,
                            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    }
    hex_of(hex, "", 1);
    assert_string_equal(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

static void test_file(void **state)
{
    (void)state;
    char dir[] = "/tmp/qy_hash_XXXXXX", path[QY_PATH_MAX], hex[QY_SHA256_HEX];
    qy_error_t err = {0};
    assert_non_null(mkdtemp(dir));
    assert_int_equal(qy_path(path, &err, "%s/a", dir), QY_OK);
    size_t n = 1000000; /* FIPS 180-2: a million times "a" */
    char *text = malloc(n);
    assert_non_null(text);
    memset(text, 'a', n);
    assert_int_equal(qy_file_write(path, text, n, &err), QY_OK);
    free(text);
    assert_int_equal(qy_sha256_file(path, hex, &err), QY_OK);
    assert_string_equal(hex, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    assert_int_equal(qy_remove_tree(dir, &err), QY_OK);
    assert_int_equal(qy_sha256_file(path, hex, &err), QY_ERR_IO);
    assert_non_null(strstr(err.text, path));
}

static void test_sums(void **state)
{
    (void)state;
    assert_int_equal(qy_crc32("123456789", 9), 0xcbf43926u); /* the check value of CRC-32 */
    assert_int_equal(qy_crc32("", 0), 0);
    assert_true(qy_xxh3("", 0) == 0x2d06800538d394c2u); /* xxHash's own sanity test */
    assert_true(qy_xxh3("a", 1) != qy_xxh3("b", 1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sha256),
        cmocka_unit_test(test_file),
        cmocka_unit_test(test_sums),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
