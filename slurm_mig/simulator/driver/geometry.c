/* Which instances fit where. Nothing here is special to a GPU: slices, engines and counts decide. */
#include <limits.h>
#include <string.h>

#include "sim.h"

const struct gi_profile *gi_profile_by_id(const struct gpu_config *gpu, unsigned id)
{
    for (unsigned i = 0; i < gpu->profiles; i++)
        if (gpu->profile[i].id == id)
            return &gpu->profile[i];
    return NULL;
}

const struct gi_profile *gi_profile_by_index(const struct gpu_config *gpu, unsigned index)
{
    for (unsigned i = 0; i < gpu->profiles; i++)
        if (gpu->profile[i].index == index)
            return &gpu->profile[i];
    return NULL;
}

const struct ci_profile *ci_profile_by_id(const struct gi_profile *profile, unsigned id)
{
    for (unsigned i = 0; i < profile->ci_profiles; i++)
        if (profile->ci[i].id == id)
            return &profile->ci[i];
    return NULL;
}

const struct ci_profile *ci_profile_by_index(const struct gi_profile *profile, unsigned index)
{
    for (unsigned i = 0; i < profile->ci_profiles; i++)
        if (profile->ci[i].index == index)
            return &profile->ci[i];
    return NULL;
}

static uint32_t mask(unsigned start, unsigned size)
{
    return ((1u << size) - 1) << start;
}

/* An engine's count on the whole GPU is what the largest profile gets; where that number is not
 * known (0) the engine limits nothing. This is what makes +me exclude +me (one OFA) and +me.all
 * leave only -me (all decoders, encoders, JPEG units). */
struct engines {
    unsigned dec, enc, jpeg, ofa, ce;
};

static void add_engines(struct engines *sum, const struct gi_profile *profile)
{
    sum->dec += profile->dec;
    sum->enc += profile->enc;
    sum->jpeg += profile->jpeg;
    sum->ofa += profile->ofa;
    sum->ce += profile->ce;
}

static bool within(unsigned used, unsigned total)
{
    return total == 0 || used <= total;
}

static bool engines_suffice(const struct gpu_config *gpu, const struct engines *used)
{
    const struct gi_profile *full = NULL;
    for (unsigned i = 0; i < gpu->profiles; i++)
        if (full == NULL || gpu->profile[i].slices > full->slices)
            full = &gpu->profile[i];
    return full != NULL && within(used->dec, full->dec) && within(used->enc, full->enc) &&
           within(used->jpeg, full->jpeg) && within(used->ofa, full->ofa) &&
           within(used->ce, full->ce);
}

bool gi_fits(const struct gpu_config *gpu, const struct gpu_state *state,
             const struct gi_profile *profile, unsigned placement)
{
    uint32_t wanted = mask(profile->start[placement], profile->size);
    unsigned slices = profile->slices, same = 1;
    struct engines engines = {0, 0, 0, 0, 0};

    add_engines(&engines, profile);
    for (unsigned i = 0; i < MAX_GI; i++) {
        const struct gi_state *gi = &state->gi[i];
        const struct gi_profile *other = &gpu->profile[gi->profile];
        if (gi->serial == 0)
            continue;
        if (mask(gi->start, gi->size) & wanted)
            return false;
        slices += other->slices;
        same += other == profile;
        add_engines(&engines, other);
    }
    return state->gi[profile->gi_id[placement]].serial == 0 && slices <= gpu->compute_slices &&
           same <= profile->max_count && engines_suffice(gpu, &engines);
}

void gi_add(const struct gpu_config *gpu, struct gpu_state *state,
            const struct gi_profile *profile, unsigned placement)
{
    struct gi_state *gi = &state->gi[profile->gi_id[placement]];

    memset(gi, 0, sizeof *gi);
    gi->serial = ++state->serials;
    gi->profile = (uint8_t)(profile - gpu->profile);
    gi->start = (uint8_t)profile->start[placement];
    gi->size = (uint8_t)profile->size;
}

static unsigned options_left(const struct gpu_config *gpu, const struct gpu_state *state)
{
    unsigned options = 0;
    for (unsigned i = 0; i < gpu->profiles; i++)
        for (unsigned p = 0; p < gpu->profile[i].placements; p++)
            options += gi_fits(gpu, state, &gpu->profile[i], p);
    return options;
}

/* Nobody has published how the driver chooses. This rule, most (profile, placement) options left,
 * then lowest GI id, reproduces every documented sequence. */
int gi_default_placement(const struct gpu_config *gpu, const struct gpu_state *state,
                         const struct gi_profile *profile)
{
    int best = -1;
    unsigned best_options = 0;

    for (unsigned p = 0; p < profile->placements; p++) {
        struct gpu_state after;
        unsigned options;
        if (!gi_fits(gpu, state, profile, p))
            continue;
        memcpy(&after, state, sizeof after);
        gi_add(gpu, &after, profile, p);
        options = options_left(gpu, &after);
        if (best < 0 || options > best_options ||
            (options == best_options && profile->gi_id[p] < profile->gi_id[best])) {
            best = (int)p;
            best_options = options;
        }
    }
    return best;
}

unsigned gi_remaining(const struct gpu_config *gpu, const struct gpu_state *state,
                      const struct gi_profile *profile)
{
    struct gpu_state filled;
    unsigned count = 0;

    memcpy(&filled, state, sizeof filled);
    /* Placements of one profile never overlap each other, so their order does not matter. */
    for (unsigned p = 0; p < profile->placements; p++)
        if (gi_fits(gpu, &filled, profile, p)) {
            gi_add(gpu, &filled, profile, p);
            count++;
        }
    return count;
}

bool ci_fits(const struct gi_profile *in, const struct gi_state *gi,
             const struct ci_profile *profile, unsigned placement)
{
    uint32_t wanted = mask(profile->start[placement], profile->size);
    unsigned slices = profile->slices, same = 1, sm = profile->sm, free_ids = 0;

    for (unsigned i = 0; i < MAX_CI; i++) {
        const struct ci_state *ci = &gi->ci[i];
        const struct ci_profile *other = &in->ci[ci->profile];
        if (ci->serial == 0) {
            free_ids++;
            continue;
        }
        if (mask(ci->start, ci->size) & wanted)
            return false;
        slices += other->slices;
        same += other == profile;
        sm += other->sm;
    }
    return free_ids > 0 && slices <= in->slices && same <= profile->max_count &&
           within(sm, in->sm);
}

int ci_default_placement(const struct gi_profile *in, const struct gi_state *gi,
                         const struct ci_profile *profile)
{
    for (unsigned p = 0; p < profile->placements; p++)
        if (ci_fits(in, gi, profile, p))
            return (int)p;
    return -1;
}

unsigned ci_add(const struct gi_profile *in, struct gi_state *gi,
                const struct ci_profile *profile, unsigned placement, uint32_t serial)
{
    unsigned id = 0;

    while (id < MAX_CI - 1 && gi->ci[id].serial != 0)
        id++;
    gi->ci[id].serial = serial;
    gi->ci[id].profile = (uint8_t)(profile - in->ci);
    gi->ci[id].start = (uint8_t)profile->start[placement];
    gi->ci[id].size = (uint8_t)profile->size;
    return id;
}

unsigned ci_remaining(const struct gi_profile *in, const struct gi_state *gi,
                      const struct ci_profile *profile)
{
    struct gi_state filled = *gi;
    unsigned count = 0;
    int placement;

    while ((placement = ci_default_placement(in, &filled, profile)) >= 0) {
        ci_add(in, &filled, profile, (unsigned)placement, UINT32_MAX);
        count++;
    }
    return count;
}
