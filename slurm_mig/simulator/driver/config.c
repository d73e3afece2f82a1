/* Reads DIR/gpus: one line per GPU, GPU instance profile and compute instance profile, in that
 * nesting, fields by position; slurm_mig/simulator/describe.py writes it and documents it. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sim.h"

struct reader {
    char *text;
    bool ok;
};

static const char *word(struct reader *reader)
{
    char *found = strsep(&reader->text, " \n");
    if (found == NULL || *found == '\0') {
        reader->ok = false;
        return "";
    }
    return found;
}

static unsigned number(struct reader *reader)
{
    const char *text = word(reader);
    char *end;
    unsigned long value = strtoul(text, &end, 0);
    if (*end != '\0' || end == text)
        reader->ok = false;
    return (unsigned)value;
}

static unsigned number_at_most(struct reader *reader, unsigned limit)
{
    unsigned value = number(reader);
    if (value > limit) {
        reader->ok = false;
        return 0;
    }
    return value;
}

static void rest(struct reader *reader, char *into, size_t size)
{
    if (reader->text == NULL) {
        reader->ok = false;
        return;
    }
    reader->text[strcspn(reader->text, "\n")] = '\0';
    snprintf(into, size, "%s", reader->text);
}

static void hex16(struct reader *reader, uint8_t *into)
{
    const char *text = word(reader);
    if (strlen(text) != 32) {
        reader->ok = false;
        return;
    }
    for (unsigned i = 0; i < 16; i++) {
        char pair[3] = {text[2 * i], text[2 * i + 1], '\0'};
        into[i] = (uint8_t)strtoul(pair, NULL, 16);
    }
}

static void read_gpu(struct reader *reader, struct gpu_config *gpu)
{
    hex16(reader, gpu->uuid);
    gpu->minor = number(reader);
    gpu->bus = number(reader);
    gpu->pci_device_id = number(reader);
    gpu->arch = number(reader);
    gpu->cc_major = number(reader);
    gpu->cc_minor = number(reader);
    gpu->compute_slices = number(reader);
    gpu->max_mig = number(reader);
    gpu->memory_mb = number(reader);
    gpu->mig_at_start = number(reader);
    snprintf(gpu->serial, sizeof gpu->serial, "%s", word(reader));
    rest(reader, gpu->name, sizeof gpu->name);
}

static void read_gi(struct reader *reader, struct gi_profile *gi)
{
    unsigned *fields[] = {&gi->index, &gi->id,  &gi->slices, &gi->p2p,  &gi->gfx,
                          &gi->memory_mb, &gi->max_count, &gi->sm, &gi->ce, &gi->dec,
                          &gi->enc, &gi->jpeg, &gi->ofa, &gi->size};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        *fields[i] = number(reader);
    gi->placements = number_at_most(reader, MAX_PLACEMENTS);
    for (unsigned i = 0; i < gi->placements; i++) {
        gi->start[i] = number(reader);
        gi->gi_id[i] = number_at_most(reader, MAX_GI - 1);
    }
    rest(reader, gi->name, sizeof gi->name);
}

static void read_ci(struct reader *reader, struct ci_profile *ci)
{
    unsigned *fields[] = {&ci->index, &ci->id, &ci->slices, &ci->max_count, &ci->sm, &ci->size};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        *fields[i] = number(reader);
    ci->placements = number_at_most(reader, MAX_PLACEMENTS);
    for (unsigned i = 0; i < ci->placements; i++)
        ci->start[i] = number(reader);
}

static bool read_line(struct reader *reader, struct config *config)
{
    const char *keyword = word(reader);
    struct gpu_config *gpu = config->gpus ? &config->gpu[config->gpus - 1] : NULL;
    struct gi_profile *gi = gpu && gpu->profiles ? &gpu->profile[gpu->profiles - 1] : NULL;

    if (strcmp(keyword, "driver") == 0) {
        config->cuda_version = number(reader);
        snprintf(config->driver_version, sizeof config->driver_version, "%s", word(reader));
    } else if (strcmp(keyword, "privileged_uid") == 0) {
        config->privileged_uid = number(reader);
    } else if (strcmp(keyword, "fresh_uuids") == 0) {
        config->fresh_uuids = number(reader) != 0;
    } else if (strcmp(keyword, "self_reset") == 0) {
        config->self_reset = number(reader) != 0;
    } else if (strcmp(keyword, "seed") == 0) {
        hex16(reader, config->seed);
    } else if (strcmp(keyword, "gpu") == 0 && config->gpus < MAX_GPUS) {
        read_gpu(reader, &config->gpu[config->gpus++]);
    } else if (strcmp(keyword, "gi") == 0 && gpu && gpu->profiles < MAX_GI_PROFILES) {
        read_gi(reader, &gpu->profile[gpu->profiles++]);
    } else if (strcmp(keyword, "ci") == 0 && gi && gi->ci_profiles < MAX_CI_PROFILES) {
        read_ci(reader, &gi->ci[gi->ci_profiles++]);
    } else {
        reader->ok = false;
    }
    return reader->ok;
}

bool config_read(const char *path, struct config *config)
{
    FILE *file = fopen(path, "re");
    char *line = NULL;
    size_t capacity = 0;
    bool ok;

    if (file == NULL)
        return false;
    memset(config, 0, sizeof *config);
    ok = getline(&line, &capacity, file) > 0 && strcmp(line, "slurm-mig-simulation 1\n") == 0;
    while (ok && getline(&line, &capacity, file) > 0) {
        struct reader reader = {.text = line, .ok = true};
        if (*line != '#')
            ok = read_line(&reader, config);
    }
    free(line);
    fclose(file);
    if (!ok || config->gpus == 0) {
        errno = EINVAL;
        return false;
    }
    return true;
}
