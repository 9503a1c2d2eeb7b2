/* SPDX-License-Identifier: GPL-2.0-or-later
 * Command line of rqdkm-vboard. */
#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "vboard.h"

machine_state machine = {.options = {.max_cycles = NEVER, .hse_hz = 8000000, .lsi_hz = 32000, .hse_stops_ns = NEVER}};
static double started;

static const char usage[] =
    "usage: rqdkm-vboard [options] firmware.elf\n"
    "  --flash-model f407|l4r5|none  flash accelerator to model (f407)\n"
    "  --stats FILE                  write statistics as JSON\n"
    "  --profile FILE                write cycles per function as JSON\n"
    "  --folded FILE                 write cycles per call path, for flame graphs\n"
    "  --max-cycles N                stop after N running cycles (exit 124)\n"
    "  --timeout S                   stop after S seconds of wall time (exit 124)\n"
    "  --strict-clock                a broken clock rule ends the run (exit 123)\n"
    "  --hse HZ                      crystal frequency (8000000)\n"
    "  --lse HZ  --lsi HZ            32 kHz crystal (0: none), internal low-speed oscillator (32000)\n"
    "  --hse-dead, --pll-dead        the crystal never starts, the PLL never locks\n"
    "  --hse-stops MS                the crystal stops after that time\n"
    "  --pll-miss N                  the PLL does not lock when it is started for the Nth time\n"
    "  --baud RATE                   the host's rate: bytes at another one arrive broken\n"
    "  --pins FILE                   levels of input pins: lines of \"milliseconds pin level\"\n"
    "  --events FILE                 write clock and mode changes, exceptions, output pins and ITM words as CSV\n"
    "  --functional                  no timing, faster: outputs only\n"
    "  --version, --help\n"
    "USART1 and USART2 are stdin and stdout. Own exit codes: 121 usage, 122 lockup, 123 clock, 124 limit.\n";

void message(const char *format, ...) {
  va_list arguments;
  fputs("rqdkm-vboard: ", stderr);
  va_start(arguments, format);
  vfprintf(stderr, format, arguments);
  va_end(arguments);
  fputc('\n', stderr);
}

void end_run(int code, const char *format, ...) {
  if (machine.stop == STOP_END) return; /* the first reason counts */
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(machine.exit_reason, sizeof machine.exit_reason, format, arguments);
  va_end(arguments);
  machine.exit_code = code;
  machine.stop = STOP_END;
  uc_emu_stop(machine.uc);
}

double wall_seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9 - started;
}

static void bad_usage(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));
static void bad_usage(const char *format, ...) {
  va_list arguments;
  fputs("rqdkm-vboard: ", stderr);
  va_start(arguments, format);
  vfprintf(stderr, format, arguments);
  va_end(arguments);
  fputs(" (try --help)\n", stderr);
  exit(EXIT_CODE_USAGE);
}

static double positive(const char *option, const char *text) {
  char *end = NULL;
  errno = 0;
  double value = strtod(text, &end);
  if (errno || end == text || *end || !(value > 0) || value > 1e18)
    bad_usage("--%s needs a positive number, not '%s'", option, text);
  return value;
}

static double not_negative(const char *option, const char *text) {
  return strcmp(text, "0") == 0 ? 0 : positive(option, text);
}

static flash_model_kind parse_model(const char *text) {
  for (flash_model_kind kind = FLASH_MODEL_F407; kind <= FLASH_MODEL_NONE; kind++) {
    if (strcmp(text, flash_model_name(kind)) == 0) return kind;
  }
  bad_usage("unknown flash model '%s': f407, l4r5 or none", text);
}

static void parse(int count, char **arguments) {
  enum {
    MODEL = 256,
    STATS,
    PROFILE,
    FOLDED,
    CYCLES,
    TIMEOUT,
    STRICT,
    HSE,
    HSE_DEAD,
    PLL_DEAD,
    LSE,
    LSI,
    HSE_STOPS,
    PLL_MISS,
    BAUD,
    PINS,
    EVENTS,
    FUNCTIONAL,
    VERSION,
    HELP
  };
  static const struct option names[] = {{"flash-model", required_argument, NULL, MODEL},
                                        {"stats", required_argument, NULL, STATS},
                                        {"profile", required_argument, NULL, PROFILE},
                                        {"folded", required_argument, NULL, FOLDED},
                                        {"max-cycles", required_argument, NULL, CYCLES},
                                        {"timeout", required_argument, NULL, TIMEOUT},
                                        {"strict-clock", no_argument, NULL, STRICT},
                                        {"hse", required_argument, NULL, HSE},
                                        {"hse-dead", no_argument, NULL, HSE_DEAD},
                                        {"pll-dead", no_argument, NULL, PLL_DEAD},
                                        {"lse", required_argument, NULL, LSE},
                                        {"lsi", required_argument, NULL, LSI},
                                        {"hse-stops", required_argument, NULL, HSE_STOPS},
                                        {"pll-miss", required_argument, NULL, PLL_MISS},
                                        {"baud", required_argument, NULL, BAUD},
                                        {"pins", required_argument, NULL, PINS},
                                        {"events", required_argument, NULL, EVENTS},
                                        {"functional", no_argument, NULL, FUNCTIONAL},
                                        {"version", no_argument, NULL, VERSION},
                                        {"help", no_argument, NULL, HELP},
                                        {NULL, 0, NULL, 0}};
  board_options *o = &machine.options;
  opterr = 0;
  for (int option; (option = getopt_long(count, arguments, "+:", names, NULL)) != -1;) {
    switch (option) {
      case MODEL:
        o->flash_model = parse_model(optarg);
        break;
      case STATS:
        o->stats_path = optarg;
        break;
      case PROFILE:
        o->profile_path = optarg;
        break;
      case FOLDED:
        o->folded_path = optarg;
        break;
      case CYCLES:
        o->max_cycles = (uint64_t)positive("max-cycles", optarg);
        break;
      case TIMEOUT:
        o->timeout_s = positive("timeout", optarg);
        break;
      case STRICT:
        o->strict_clock = true;
        break;
      case HSE:
        o->hse_hz = (uint32_t)positive("hse", optarg);
        if (o->hse_hz < 1000000 || o->hse_hz > 50000000) bad_usage("--hse is outside 1 to 50 MHz");
        break;
      case HSE_DEAD:
        o->hse_dead = true;
        break;
      case PLL_DEAD:
        o->pll_dead = true;
        break;
      case LSE:
        o->lse_hz = (uint32_t)not_negative("lse", optarg);
        if (o->lse_hz > 1000000) bad_usage("--lse is above 1 MHz");
        break;
      case LSI:
        o->lsi_hz = (uint32_t)not_negative("lsi", optarg);
        if (o->lsi_hz && (o->lsi_hz < 17000 || o->lsi_hz > 47000)) bad_usage("--lsi is outside 17000 to 47000 Hz");
        break;
      case HSE_STOPS:
        o->hse_stops_ns = (uint64_t)(1e6 * positive("hse-stops", optarg));
        break;
      case PLL_MISS:
        o->pll_miss = (unsigned)positive("pll-miss", optarg);
        break;
      case BAUD:
        o->baud = (uint32_t)positive("baud", optarg);
        break;
      case PINS:
        o->pins_path = optarg;
        break;
      case EVENTS:
        o->events_path = optarg;
        break;
      case FUNCTIONAL:
        o->functional = true;
        break;
      case VERSION: {
        unsigned major = 0, minor = 0;
        uc_version(&major, &minor);
        printf("rqdkm-vboard " VBOARD_VERSION " (Unicorn %u.%u)\n", major, minor);
        exit(0);
      }
      case HELP:
        fputs(usage, stdout);
        exit(0);
      case ':':
        bad_usage("%s needs a value", arguments[optind - 1]);
      default:
        bad_usage("unknown option '%s'", arguments[optind - 1]);
    }
  }
  if (optind == count) bad_usage("no firmware given");
  if (optind + 1 != count) bad_usage("one firmware at a time: unexpected '%s'", arguments[optind + 1]);
  o->elf_path = arguments[optind];
  const char *test = getenv("RQDKM_VBOARD_TEST"); /* tests/vboard only: see trace.c */
  o->memory_hook_test = test && strcmp(test, "memory-hook") == 0;
}

int main(int count, char **arguments) {
  started = 0;
  started = wall_seconds();
  parse(count, arguments);
  uc_err error = uc_open(UC_ARCH_ARM, UC_MODE_THUMB | UC_MODE_MCLASS, &machine.uc);
  if (!error) error = uc_ctl_set_cpu_model(machine.uc, UC_CPU_ARM_CORTEX_M4);
  if (error) {
    message("Unicorn does not start: %s", uc_strerror(error));
    return EXIT_CODE_USAGE;
  }
  memory_init();
  elf_load(machine.options.elf_path);
  flash_model_init(machine.options.flash_model);
  pins_open();
  timeline_open();
  scb_reset();
  rtc_reset();
  rcc_reset();
  residency_update();
  host_init();
  trace_init();
  cpu_init();
  profile_init();
  cpu_run();
  host_flush();
  stats_write();
  profile_write();
  timeline_close();
  if (machine.exit_code >= EXIT_CODE_USAGE && machine.exit_code <= EXIT_CODE_LIMIT) message("%s", machine.exit_reason);
  return machine.exit_code;
}
