import { DeepSpeedError } from '../../errors.ts';
import {
  isSkipped,
  type Location,
  type ParameterOwner,
  type SegmentEvent,
  type SegmentWorkEvent,
  type StepPlan,
} from '../../hooks/index.ts';
import { alignUp, type FlatLayout, intersect, type Shard } from '../../layout.ts';
import type { FloatType, NativeBuffer, NativeEngine, Region, Work } from '../../native/contract.ts';
import { bucketShards } from '../buckets.ts';
import { placesOf, writePlace } from '../held.ts';
import { heldSplit } from '../offload/offload.ts';
import { swapUnit } from '../offload/settings.ts';
import { tailByte } from '../offload/swap-space.ts';
import type { Split } from '../offload/walk.ts';
import { elementBytes } from '../precision/wire.ts';
import { type Gathering, type GatherPlan, positionOf, segmentAt } from './gather-plan.ts';
import type { SecondaryShard } from './plus-plus.ts';

export interface GatheredParametersOptions {
  engine: NativeEngine;
  layout: FlatLayout;
  rank: number;
  segmentCount: number;
  plan: GatherPlan;
  /** This rank's shard: fp32, and in the type that travels. The same where that is fp32. */
  master: Split;
  sent: Split;
  /** Of passes: what the engine's own may be replaced by. */
  allGather?: NativeEngine['allGather'];
  /** What backward gathers from. */
  secondary?: SecondaryShard;
}

/**
 * Stage 3: a rank keeps its shard; what a pass of a segment reads is gathered into windows before it, and
 * their memory serves other parameters after it. Each gather first copies this rank's part from its shard
 * into the window, on the compute queue: so it comes after the passes that read what was there before.
 */
export class GatheredParameters implements ParameterOwner {
  readonly gathers = true;
  readonly #options: GatheredParametersOptions;
  readonly #shard: Shard;
  readonly #type: FloatType;
  readonly #wire: NativeBuffer;
  /** Where the model reads, fp32; `#wire` itself where that is fp32. */
  readonly #model: NativeBuffer;
  readonly #holding = new Map<string, Gathering[]>();
  /** By position. */
  readonly #readBy: readonly Gathering[][];
  /** Of the current forward and backward: what was gathered, or widened, and the next one to gather. */
  readonly #works = new Map<Gathering, Work>();
  readonly #widened = new Set<Gathering>();
  readonly #kept = new Set<Gathering>();
  #next = 0;
  #position = -1;
  #lastPass: Work | undefined;

  constructor(options: GatheredParametersOptions) {
    this.#options = options;
    const { engine, layout, rank, plan, sent, segmentCount } = options;
    this.#shard = layout.shards[rank]!;
    this.#type = (sent.head ?? sent.tail)!.dtype;
    this.#wire = engine.allocate(Math.max(plan.wireSize, 1) * elementBytes(this.#type), {
      category: 'window',
      shared: true,
      name: 'gathered parameters',
    });
    this.#model = this.#narrow
      ? engine.allocate(Math.max(plan.modelSize, 1) * 4, {
          category: 'window',
          name: 'widened parameters',
        })
      : this.#wire;
    for (const gathering of [...plan.persistent, ...plan.gatherings]) {
      for (const name of gathering.parameters) {
        this.#holding.set(name, [...(this.#holding.get(name) ?? []), gathering]);
      }
    }
    this.#readBy = Array.from({ length: 2 * segmentCount }, (_, position) =>
      plan.gatherings.filter(({ readers }) => readers.includes(position)),
    );
  }

  get #narrow(): boolean {
    return this.#type !== 'float32';
  }

  location(parameter: string, segment: number, pass: SegmentEvent['pass']): Location {
    const position = positionOf(segment, pass, this.#options.segmentCount);
    const gathering = this.#holding
      .get(parameter)
      ?.find(({ readers }) => readers.length === 0 || readers.includes(position));
    if (!gathering) {
      throw new DeepSpeedError(
        'INTERNAL',
        `internal: ${parameter} is not gathered for the ${pass} of segment ${segment}, which reads it`,
      );
    }
    const place = this.#placeIn(gathering.modelPlace, gathering, parameter);
    return { buffer: this.#model, byteOffset: place * 4 };
  }

  /** Tap of `acquire`: gathers what this pass needs and what the plan gathers ahead while it runs. */
  acquire({ plan, segment, pass }: SegmentEvent): void {
    const position = positionOf(segment, pass, this.#options.segmentCount);
    if (position <= this.#position) {
      this.#next = 0;
      this.#works.clear();
      this.#widened.clear();
      this.#kept.clear();
    }
    this.#position = position;
    const { gatherings } = this.#options.plan;
    for (; gatherings[this.#next] && gatherings[this.#next]!.issue <= position; this.#next += 1) {
      const gathering = gatherings[this.#next]!;
      if (!this.#isRead(gathering, plan)) continue;
      const after = this.#lastPass === undefined ? [] : [this.#lastPass];
      this.#works.set(gathering, this.#gatherForPass(gathering, after));
    }
    if (plan.training && pass === 'forward') this.#keepSecondary(this.#readBy[position]!);
    if (!this.#narrow) return;
    for (const gathering of this.#readBy[position]!) {
      if (this.#widened.has(gathering)) continue;
      this.#widened.add(gathering);
      this.#works.set(gathering, this.#widen(gathering, [this.#works.get(gathering)!]));
    }
  }

  #gatherForPass(gathering: Gathering, after: Work[]): Work {
    const { segmentCount, secondary, allGather } = this.#options;
    const { wirePlace, count, readers } = gathering;
    if (!secondary || readers[0]! < segmentCount) {
      return this.#gather(gathering, wirePlace, after, { allGather });
    }
    return secondary.gather(gathering, this.#region(wirePlace, count), after);
  }

  /** Before the pass that reads it: then it has arrived, and nothing waits for it that would not anyway. */
  #keepSecondary(gatherings: readonly Gathering[]): void {
    const { secondary } = this.#options;
    if (!secondary) return;
    for (const gathering of gatherings) {
      if (this.#kept.has(gathering)) continue;
      this.#kept.add(gathering);
      const window = this.#region(gathering.wirePlace, gathering.count);
      secondary.keep(gathering, window, [this.#works.get(gathering)!]);
    }
  }

  /** Tap of `forward` and `backward`: windows are read until it has ended. */
  passed({ work }: SegmentWorkEvent): void {
    this.#lastPass = work;
  }

  /** Evaluation has no backward, and a step may leave segments out. */
  #isRead({ readers }: Gathering, plan: StepPlan): boolean {
    const { segmentCount } = this.#options;
    return readers.some(
      (position) =>
        (plan.training || position < segmentCount) &&
        !isSkipped(plan, segmentAt(position, segmentCount)),
    );
  }

  ready(segment: number, pass: SegmentEvent['pass']): Work[] {
    const position = positionOf(segment, pass, this.#options.segmentCount);
    return this.#readBy[position]!.map((gathering) => this.#works.get(gathering)!);
  }

  write(parameter: string, read: (start: number, count: number) => Float32Array): void {
    const slot = this.#options.layout.byName.get(parameter)!;
    const own = intersect(slot, this.#shard);
    if (own.count === 0) return;
    const values = read(own.offset - slot.offset, own.count);
    for (const { range, place } of placesOf(heldSplit(this.#options.master, this.#shard), own)) {
      const start = range.offset - own.offset;
      writePlace(place, values.subarray(start, start + range.count));
    }
  }

  /** Each element has one owner, whose value is the truth. */
  share(): null {
    return null;
  }

  read(parameter: string): Float32Array {
    const { engine, layout } = this.#options;
    const slot = layout.byName.get(parameter)!;
    const gathering = this.#holding.get(parameter)![0]!;
    const modelPlace = this.#placeIn(gathering.modelPlace, gathering, parameter);
    if (gathering.readers.length > 0) {
      const wirePlace = this.#placeIn(gathering.wirePlace, gathering, parameter);
      const { offset, count } = slot;
      const gathered = this.#gather({ offset, count }, wirePlace, []);
      const whole = this.#narrow
        ? this.#widen({ count, wirePlace, modelPlace }, [gathered])
        : gathered;
      engine.waitSync(whole);
    }
    return new Float32Array(this.#model.view(), modelPlace * 4, slot.count).slice();
  }

  /**
   * Shards were changed, and `after` ended: what stays whole is gathered anew.
   *
   * @returns the work after which it is whole; null with nothing to do or to wait for
   */
  refresh(after: readonly Work[]): Work | null {
    let last = after.at(-1) ?? null;
    for (const gathering of this.#options.plan.persistent) {
      const behind = last === null ? [] : [last];
      last = this.#gather(gathering, gathering.wirePlace, [...after], { behind });
      if (this.#narrow) last = this.#widen(gathering, [last]);
    }
    return last;
  }

  /** @param behind works that must not fail before it; unlike `after`, copying does not wait for them */
  #gather(
    stretch: Shard,
    wirePlace: number,
    after: Work[],
    {
      behind = [],
      allGather = (...call) => this.#options.engine.allGather(...call),
    }: { behind?: Work[]; allGather?: NativeEngine['allGather'] | undefined } = {},
  ): Work {
    const { layout } = this.#options;
    const own = intersect(stretch, this.#shard);
    let ready = after;
    if (own.count > 0) {
      const first = own.offset - this.#shard.offset;
      ready = this.#fetch(first, own.count, wirePlace + own.offset - stretch.offset, after);
    }
    const window = this.#region(wirePlace, stretch.count);
    return allGather(window, bucketShards(stretch, layout), [...ready, ...behind]);
  }

  /** Elements [first, first + count) of the shard go to a place of the wire, from memory and from disk. */
  #fetch(first: number, count: number, place: number, after: Work[]): Work[] {
    const { engine, sent } = this.#options;
    const { head, tail } = sent;
    const inMemory = Math.max(0, Math.min(count, (head?.count ?? 0) - first));
    const works: Work[] = [];
    if (inMemory > 0) {
      const byteOffset = head!.byteOffset + first * elementBytes(this.#type);
      const source = { ...head!, byteOffset, count: inMemory };
      works.push(engine.copy(source, this.#region(place, inMemory), after));
    }
    if (inMemory < count) {
      const region = this.#region(place + inMemory, alignUp(count - inMemory, swapUnit));
      const fileOffset = tailByte(tail!, first + inMemory);
      works.push(engine.swapIn(tail!.file, [{ fileOffset, region }], after));
    }
    return works;
  }

  #widen(
    { count, wirePlace, modelPlace }: Pick<Gathering, 'count' | 'wirePlace' | 'modelPlace'>,
    after: Work[],
  ): Work {
    const target = { buffer: this.#model, byteOffset: modelPlace * 4, count } as const;
    return this.#options.engine.copy(
      this.#region(wirePlace, count),
      { ...target, dtype: 'float32' },
      after,
    );
  }

  #region(place: number, count: number): Region {
    const dtype = this.#type;
    return { buffer: this.#wire, byteOffset: place * elementBytes(dtype), count, dtype };
  }

  #placeIn(place: number, { offset }: Gathering, parameter: string): number {
    return place + this.#options.layout.byName.get(parameter)!.offset - offset;
  }
}
