/** What training says about itself. */
import {
  accepted,
  available,
  flag,
  integer,
  nonNegative,
  notYet,
  positiveInteger,
  section,
  text,
  texts,
  word,
} from '../key.ts';

const whenOn = 'used only when enabled';

export const diagnosticKeys = {
  steps_per_print: available(
    positiveInteger,
    null,
    'Optimizer steps between progress reports; null: the host decides.',
  ),
  wall_clock_breakdown: available(
    flag,
    false,
    'Print the time of forward, backward, communication and optimizer, and what updates waited for a checkpoint under way.',
  ),
  memory_breakdown: notYet(flag, false, 'Print memory at each phase of a step.'),
  dump_state: available(flag, false, 'Print the effective config and the shard tables at start.'),
  comms_logger: section('Counts and bandwidth of every collective.', {
    enabled: available(flag, false, 'Print the table at the end.'),
    verbose: notYet(flag, false, 'Print every call.'),
    debug: notYet(flag, false, 'Name the caller of every call.'),
    prof_all: available(flag, true, 'Include all operations.'),
    prof_ops: available(texts, [] as string[], 'Operations to include when prof_all is false.'),
  }),
  flops_profiler: section('Floating-point operations per module.', {
    enabled: notYet(flag, false, 'Profile one step.'),
    recompute_fwd_factor: accepted(nonNegative, 0, 'Cost of recomputation.', whenOn),
    profile_step: accepted(positiveInteger, 1, 'Which step.', whenOn),
    module_depth: accepted(integer, -1, 'How deep to print.', whenOn),
    top_modules: accepted(positiveInteger, 1, 'How many modules to print.', whenOn),
    detailed: accepted(flag, true, 'Print every module.', whenOn),
    output_file: accepted(text, null, 'Where to print.', whenOn),
  }),
  timers: section('Timers of DeepSpeed.', {
    throughput: section('Throughput timer.', {
      enabled: accepted(flag, true, 'Measure samples per second.', 'it is always measured'),
      synchronized: accepted(
        flag,
        true,
        'Wait for the device before reading the clock.',
        'the host waits for the engine once per micro batch anyway',
      ),
    }),
  }),
  log_level: accepted(
    word('debug', 'info', 'warning', 'error', 'critical'),
    null,
    "Level of DeepSpeed's Python logger.",
    'there is no such logger; the library prints warnings and errors only',
  ),
  disable_python_gc: accepted(
    flag,
    false,
    'Switch off Python garbage collection.',
    'there is no Python',
  ),
  vocabulary_size: accepted(
    positiveInteger,
    null,
    'Only used by DeepSpeed to warn about tensor-core alignment.',
    'there are no tensor cores',
  ),
};
