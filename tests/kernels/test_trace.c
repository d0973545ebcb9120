/* Three Block-AP steps of one linear against EfficientQAT's f64 trace (methods/efficientqat.md 10).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "kernels/linear.h"
#include "kernels/loss.h"
#include "kernels/optim.h"
#include "kernels/quant.h"
#include "tests/support/compare.h"
#include "tests/support/devices.h"

enum { M = 3, O = 2, I = 8, G = 2, BITS = 2 };

static const double w_start[] = {.30,  -.10, .05, -.42, 1.00, .20,  -.90, .55,
                                 -.25, .40,  .15, -.05, .60,  -.35, .10,  -.80};
static const double inputs[] = {1,    2, -1,  .5,  .25, -.5, 1.5, -2, .5, -1, 1,  2,
                                -.75, 1, -.5, .25, -1,  0,   .5,  1,  2,  -1, .5, 1};
static const double s_start[] = {.24, .6333333, .2166667, .4666667}, z_start[] = {2, 1, 1, 2};
static const double losses[] = {0.328693171296, 0.319480323635, 0.313432225380, 0.208353268452};
static const double ds_first[] = {.4308680556, .7995559211, .0307692308, .0876984127};
static const double dw_first = -.2570833333;
static const double s_end[] = {.209965308765, .603343073276, .186883379644, .436624214457};
static const double w_end[] = {.305974445095, -.106001640684, .055998912487,  -.414100409963,
                               .994004483103, .205995480115,  -.906001719779, .556008624498};

static void close_to(const qy_device_t *dev, const char *what, const qy_tensor_t *t,
                     const double *want, int64_t n, double tolerance)
{
    double *got = test_get(dev, t);
    test_close(what, got, want, n, tolerance);
    test_drop(got);
}

/* f32 follows the f64 trace to a few units; halves leave it after the first loss. */
static void trace(const qy_device_t *dev)
{
    const qy_dtype_t c = dev->compute;
    if (c != QY_F32)
        return;
    qy_error_t err = {0};
    const double zeros[O * I] = {0};
    const double hyper[QY_N_HYPER] = {[QY_HYPER_LR_WEIGHT] = 2e-3, [QY_HYPER_LR_QUANT] = 1e-2};
    const double fresh[QY_N_STATE] = {[QY_STATE_SCALE] = 1.0};
    qy_quant_vars_t u = {.w = test_put_2d(dev, QY_F32, O, I, w_start),
                         .w_m = test_put_2d(dev, QY_F32, O, I, zeros),
                         .w_v = test_put_2d(dev, QY_F32, O, I, zeros),
                         .s = test_put_2d(dev, QY_F32, O, G, NULL),
                         .s_m = test_put_2d(dev, QY_F32, O, G, zeros),
                         .s_v = test_put_2d(dev, QY_F32, O, G, zeros),
                         .z = test_put_2d(dev, QY_F32, O, G, NULL),
                         .z_m = test_put_2d(dev, QY_F32, O, G, zeros),
                         .z_v = test_put_2d(dev, QY_F32, O, G, zeros)};
    qy_tensor_t x = test_put_2d(dev, c, M, I, inputs), target = test_put_2d(dev, c, M, O, NULL);
    qy_tensor_t y = test_put_2d(dev, c, M, O, NULL), dy = test_put_2d(dev, c, M, O, NULL);
    qy_tensor_t w_hat = test_put_2d(dev, c, O, I, NULL), g = test_put_2d(dev, c, O, I, NULL);
    qy_tensor_t dw = test_put_2d(dev, QY_F32, O, I, NULL),
                ds = test_put_2d(dev, QY_F32, O, G, NULL);
    qy_tensor_t dz = test_put_2d(dev, QY_F32, O, G, NULL), loss = test_put_1d(dev, QY_F32, 1, NULL);
    qy_tensor_t th = test_put_1d(dev, QY_F32, QY_N_HYPER, hyper);
    qy_tensor_t state = test_put_1d(dev, QY_F64, QY_N_STATE, fresh);
    test_ok(qy_linear_fwd(dev, &target, &x, &u.w, NULL, &err), err);
    test_ok(qy_quant_start(dev, &u.s, &u.z, &u.w, BITS, 0, 0, &err), err);
    close_to(dev, "s0", &u.s, s_start, O * G, 1e-7);
    close_to(dev, "z0", &u.z, z_start, O * G, 0.0);
    test_ok(qy_fake_quant_fwd(dev, &w_hat, &u.w, &u.s, &u.z, BITS, &err), err);
    for (int t = 0; t < 4; t++) {
        test_ok(qy_linear_fwd(dev, &y, &x, &w_hat, NULL, &err), err);
        test_ok(qy_mse(dev, &loss, &dy, &y, &target, NULL, &err), err);
        close_to(dev, "loss", &loss, &losses[t], 1, 5e-7);
        if (t == 3)
            break;
        test_ok(qy_linear_bwd_w(dev, &g, &dy, &x, &err), err);
        if (t == 0) {
            test_ok(qy_fake_quant_bwd(dev, &dw, &ds, &dz, &g, &u.w, &u.s, &u.z, BITS, &err), err);
            close_to(dev, "ds", &ds, ds_first, O * G, 5e-7);
            close_to(dev, "dz", &dz, zeros, O * G, 0.0);
            close_to(dev, "dw", &dw, &dw_first, 1, 5e-7);
        }
        test_ok(qy_step_begin(dev, &th, &state, NULL, &err), err);
        test_ok(qy_quant_update(dev, &w_hat, &u, &g, NULL, &th, BITS, 1, &err), err);
    }
    close_to(dev, "s", &u.s, s_end, O * G, 5e-7);
    close_to(dev, "z", &u.z, z_start, O * G, 0.0);
    close_to(dev, "w", &u.w, w_end, I, 5e-7);
    test_release_all(dev, &u.w, &u.w_m, &u.w_v, &u.s, &u.s_m, &u.s_v, &u.z, &u.z_m, &u.z_v, &x,
                     &target, &y, &dy, &w_hat, &g, &dw, &ds, &dz, &loss, &th, &state);
}

TEST_ON_DEVICES(trace)

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_trace)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
