#include "worker/decorate.h"

void qy_decorate_plain(qy_block_params_t *params)
{
    for (int i = 0; i < QY_N_SITES; i++) {
        params->map[i].active = false;
        params->quantizer[i] = (qy_site_quantizer_t){.kind = QY_ACT_NONE};
    }
}

void qy_decorate_quantizers(qy_block_params_t *params, const qy_quant_form_t *form)
{
    for (int i = 0; i < QY_N_SITES; i++) {
        int bits = qy_quant_site_bits(form, (qy_site_t)i);
        params->quantizer[i] = (qy_site_quantizer_t){
            .kind = bits == QY_BITS_NONE ? QY_ACT_NONE : QY_ACT_PER_ROW, .bits = bits};
    }
}
