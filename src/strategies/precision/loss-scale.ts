import { LossScaler, type LossScaleState } from '../../schedules/index.ts';
import type { StrategyContext } from '../plugin.ts';

/** The factor on the loss that keeps small gradients above the smallest 16-bit number. */
export interface LossScale {
  readonly value: number;
}

const stateKey = 'lossScale';

/**
 * fp16's loss scale: told of every step's overflow, saved in checkpoints. For other precisions a
 * constant 1.
 *
 * @param zeroStage DeepSpeed's rule differs with and without ZeRO, see LossScaler
 */
export function applyLossScale(
  { lifecycle, precision }: StrategyContext,
  zeroStage: number,
): LossScale {
  const options = precision.lossScale;
  if (!options) return { value: 1 };
  let scaler = new LossScaler(options, zeroStage);
  lifecycle.tap('metrics', 'plan', 'fp16.updateScale', ({ skipped }) => scaler.update(skipped));
  lifecycle.tap('saveCheckpoint', 'plan', 'fp16.saveScale', async ({ state }) => {
    state[stateKey] = scaler.toJSON();
  });
  lifecycle.tap('loadCheckpoint', 'observe', 'fp16.loadScale', async ({ state }) => {
    // A checkpoint of another precision has none: the scale starts as it does in a fresh run.
    const stored = state[stateKey] as LossScaleState | undefined;
    if (stored) scaler = new LossScaler(options, zeroStage, stored);
  });
  return {
    get value() {
      return scaler.scale;
    },
  };
}
