/** Segments on another execution provider than the processor's, which has none of our operators. */
import { isMainThread } from 'node:worker_threads';
import { DeepSpeedError } from '../../errors.ts';
import type { ExecutionProvider, NativeEngine } from '../../native/index.ts';

/** @throws DeepSpeedError EXECUTION_PROVIDER where this machine does not have it */
export function requireProvider(engine: NativeEngine, name: ExecutionProvider): void {
  const state = engine.executionProviders().find((provider) => provider.name === name)!;
  if (state.fault === null) {
    endWithIdleDevice(engine);
    return;
  }
  throw new DeepSpeedError(
    'EXECUTION_PROVIDER',
    `execution provider ${name} cannot be used: ${state.fault}`,
    { data: { provider: name, reason: state.fault } },
  );
}

let endsWithIdleDevice = false;

/** A driver that computes while process.exit or an uncaught error takes it down may crash, and the exit status is lost. */
function endWithIdleDevice(engine: NativeEngine): void {
  // A worker's engine waits for its own queues; the process goes on.
  if (endsWithIdleDevice || !isMainThread) return;
  endsWithIdleDevice = true;
  process.once('exit', () => engine.keepDevice());
}

/** @param lowered operators that run as plain ONNX */
export function describeProvider(
  provider: ExecutionProvider,
  lowered: ReadonlySet<string>,
): string {
  const operators = [...lowered].map((operator) => operator.replace('deepspeed.', '')).sort();
  const made =
    operators.length === 0
      ? 'the graph needs none of them'
      : `these run as plain ONNX: ${operators.join(', ')}`;
  return (
    `execution provider ${provider}: it has no deepspeed operators; ${made}. ` +
    'Sums of gradients, optimizer, communication and what the provider lacks stay on the processor.'
  );
}
