import { DeepSpeedError } from '../../errors.ts';
import type { Shard } from '../../layout.ts';
import type { NativeEngine, OptimizerRange, Work } from '../../native/contract.ts';
import type { StepSettings } from '../zero/shard-optimizer.ts';
import { rangesWithin, subGroups } from './sub-groups.ts';
import type { OffloadSettings } from './settings.ts';
import { type Split, SubGroupWalk } from './walk.ts';

/** Everything that an optimizer step of a shard touches but the gradient. */
export interface UpdatedTensors {
  readonly master: Split;
  readonly copy16?: Split;
  readonly states: readonly Split[];
  /** Where it is on disk. */
  readonly gradient?: Split;
}

export interface SwappedUpdateOptions {
  engine: NativeEngine;
  settings: OffloadSettings;
  tensors: UpdatedTensors;
  /** Elements of the shard. */
  count: number;
  ranges: readonly OptimizerRange[];
}

/**
 * The optimizer's update of a shard that is partly on disk. Sub-groups share nothing but the norm, so the
 * bits are those of one update of the whole.
 */
export class SwappedUpdate {
  readonly tensors: UpdatedTensors;
  readonly #engine: NativeEngine;
  readonly #walk: SubGroupWalk;
  /** By the first element of the sub-group. */
  readonly #ranges = new Map<number, OptimizerRange[]>();

  constructor(options: SwappedUpdateOptions) {
    const { engine, settings, tensors, count, ranges } = options;
    this.tensors = tensors;
    this.#engine = engine;
    const all = [...this.#updated(), ...(tensors.gradient ? [tensors.gradient] : [])];
    const swapped = all.flatMap(({ tail }) => (tail && tail.count > 0 ? [tail] : []));
    const groups = subGroups(
      count,
      settings.subGroupSize,
      swapped.map(({ first }) => first),
    );
    for (const group of groups) this.#ranges.set(group.offset, rangesWithin(ranges, group));
    this.#walk = new SubGroupWalk(
      { engine, groups, ...pipelineOf(settings, swapped.length, groups.length) },
      all,
    );
  }

  /**
   * @param gradient the shard's
   * @param before what a sub-group has to wait for besides
   */
  update(
    step: StepSettings,
    gradient: Split,
    after: Work[],
    before: (group: Shard) => Work[] = () => [],
  ): Work {
    const { master, copy16, states } = this.tensors;
    return this.#walk.run({
      reads: [master, ...states, gradient],
      writes: this.#updated(),
      ...(step.norm && { norm: step.norm }),
      after,
      visit: (group, at, ready) => {
        const [state1, state2, state3] = states.map(at);
        return this.#engine.optimizerStep(
          {
            ...step,
            master: at(master),
            ...(copy16 && { copy16: at(copy16) }),
            ...(state1 && { state1 }),
            ...(state2 && { state2 }),
            ...(state3 && { state3 }),
            gradient: at(gradient),
            ranges: this.#ranges.get(group.offset)!,
          },
          [...ready, ...before(group)],
        );
      },
    });
  }

  /** The fp32 weights were written: the 16-bit ones follow. */
  narrow(): Work | null {
    const { master, copy16 } = this.tensors;
    if (!copy16) return null;
    return this.#walk.run({
      reads: [master],
      writes: [copy16],
      after: [],
      visit: (_, at, ready) => this.#engine.copy(at(master), at(copy16), ready),
    });
  }

  #updated(): Split[] {
    const { master, copy16, states } = this.tensors;
    return [master, ...(copy16 ? [copy16] : []), ...states];
  }
}

/** How many sub-groups have buffers at once. Parameters alone bring no setting of their own. */
function pipelineOf({ optimizer }: OffloadSettings, tensors: number, groups: number) {
  if (!optimizer || tensors === 0) return { slots: 2, pipelineRead: true, pipelineWrite: true };
  const { bufferCount, pipelineRead, pipelineWrite } = optimizer;
  const slots = Math.floor(bufferCount / tensors);
  const needed = tensors * (groups > 1 && (pipelineRead || pipelineWrite) ? 2 : 1);
  if (bufferCount < needed) {
    throw new DeepSpeedError(
      'CONFIG_INVALID',
      `zero_optimization.offload_optimizer.buffer_count is ${bufferCount}: a sub-group has ${tensors} tensors on disk` +
        (needed > tensors ? ', and a pipeline needs two sub-groups in memory' : ''),
      { fix: `Set it to at least ${needed}.` },
    );
  }
  return { slots, pipelineRead, pipelineWrite };
}
