/** Segments on another execution provider than the processor's, which has none of our operators. */
import { DeepSpeedError } from '../../errors.ts';
import type { ExecutionProvider, NativeEngine } from '../../native/index.ts';

/** @throws DeepSpeedError EXECUTION_PROVIDER where this machine does not have it */
export function requireProvider(engine: NativeEngine, name: ExecutionProvider): void {
  const state = engine.executionProviders().find((provider) => provider.name === name)!;
  if (state.fault === null) return;
  throw new DeepSpeedError(
    'EXECUTION_PROVIDER',
    `execution provider ${name} cannot be used: ${state.fault}`,
    { data: { provider: name, reason: state.fault } },
  );
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
