/**
 * The loss scale of fp16 training: large enough that small gradients survive in 16 bits, halved
 * when one overflows. A pure state machine over "did this step overflow".
 */
import { DeepSpeedError } from '../errors.ts';

export interface LossScaleOptions {
  /** A fixed scale; 0: dynamic. */
  loss_scale: number;
  initial_scale_power: number;
  loss_scale_window: number;
  hysteresis: number;
  consecutive_hysteresis: boolean;
  min_loss_scale: number;
}

export interface LossScaleState {
  scale: number;
  /** Overflows that are still forgiven, plus one. */
  hysteresis: number;
  iteration: number;
  lastOverflow: number;
}

/**
 * DeepSpeed has two rules. Under ZeRO (`runtime/fp16/loss_scaler.py`) the first overflows only use
 * up hysteresis, and an overflow at the smallest scale ends training. Without ZeRO
 * (`runtime/fp16/fused_optimizer.py`) every overflow halves the scale, down to the smallest.
 */
export class LossScaler {
  private readonly options: LossScaleOptions;
  private readonly zero: boolean;
  private state: LossScaleState;

  constructor(options: LossScaleOptions, stage: number, state?: LossScaleState) {
    this.options = options;
    this.zero = stage > 0;
    this.state = state ?? {
      scale: options.loss_scale > 0 ? options.loss_scale : 2 ** options.initial_scale_power,
      hysteresis: options.hysteresis,
      iteration: 0,
      lastOverflow: -1,
    };
  }

  /** What the loss is multiplied by before backward. */
  get scale(): number {
    return this.state.scale;
  }

  /**
   * Takes note of one finished step; a step that overflowed must not have changed the weights.
   *
   * @throws LOSS_SCALE_AT_MINIMUM (ZeRO only)
   */
  update(overflow: boolean): void {
    if (this.options.loss_scale === 0) {
      if (overflow) this.shrink();
      else this.grow();
    }
    this.state.iteration++;
  }

  private shrink(): void {
    const { state } = this;
    const { min_loss_scale: min, hysteresis } = this.options;
    const forgiven = this.zero && hysteresis > 1 && state.hysteresis > 1;
    if (forgiven) state.hysteresis--;
    else if (this.zero && state.scale === min) throw atMinimum(min, state.iteration);
    else state.scale = Math.max(state.scale / 2, min);
    state.lastOverflow = state.iteration;
  }

  private grow(): void {
    const { state } = this;
    const { hysteresis, consecutive_hysteresis, loss_scale_window } = this.options;
    if (consecutive_hysteresis) state.hysteresis = hysteresis;
    const stable = state.iteration - state.lastOverflow - 1;
    if (stable > 0 && stable % loss_scale_window === 0) {
      state.scale *= 2;
      state.hysteresis = hysteresis;
    }
  }

  /** For checkpoints: `new LossScaler(options, stage, state)` continues exactly here. */
  toJSON(): LossScaleState {
    return { ...this.state };
  }
}

function atMinimum(min: number, iteration: number): DeepSpeedError {
  return new DeepSpeedError(
    'LOSS_SCALE_AT_MINIMUM',
    `gradients overflow at step ${iteration} although the loss scale is at its minimum, ${min}`,
    { data: { min, iteration } },
  );
}
