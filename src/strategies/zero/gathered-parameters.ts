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
import { floatsOf } from '../precision/widen.ts';
import { type Gathering, type GatherPlan, positionOf } from './gather-plan.ts';
import type { SecondaryShard } from './plus-plus.ts';

/** A flat buffer of which a rank keeps its shard. */
export interface ShardedBuffer {
  layout: FlatLayout;
  /** This rank's shard: fp32, and in the type that travels. The same where that is fp32. */
  master: Split;
  sent: Split;
  /** `sent` is joint memory: what is gathered is in its place, and each gather a meeting of all ranks. */
  inPlace?: boolean;
  /** Of passes: what the engine's own may be replaced by. */
  allGather?: NativeEngine['allGather'];
  /** What backward gathers from. */
  secondary?: SecondaryShard;
}

export interface GatheredParametersOptions {
  engine: NativeEngine;
  rank: number;
  segmentCount: number;
  plan: GatherPlan;
  trained: ShardedBuffer;
  /** What training does not change; absent where that is whole on every rank. Sent in fp32. */
  frozen?: ShardedBuffer;
}

/** A stretch of a flat buffer on its way to its place. */
type Arriving = Pick<Gathering, 'frozen' | 'widened' | 'offset' | 'count' | 'wirePlace'>;

/**
 * Stage 3: a rank keeps its shard; what a pass of a segment reads is gathered into windows before it, and
 * their memory serves other parameters after it. Each gather first copies this rank's part from its shard
 * into the window, on the compute queue: so it comes after the passes that read what was there before.
 *
 * Ranks of one machine read each other's shards where they are: a gather then only says that they may. No shard changes
 * while a peer reads it: its update comes after the reduction of its gradients, and so after all passes that read it.
 */
export class GatheredParameters implements ParameterOwner {
  readonly gathers = true;
  readonly #options: GatheredParametersOptions;
  readonly #type: FloatType;
  readonly #wire: NativeBuffer;
  /** Where the model reads fp32; `#wire` itself where that is fp32. */
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
    const { engine, plan, trained, frozen, segmentCount } = options;
    this.#type = (trained.sent.head ?? trained.sent.tail)!.dtype;
    this.#wire = trained.inPlace
      ? trained.sent.head!.buffer
      : engine.allocate(Math.max(plan.wireSize, 1) * elementBytes(this.#type), {
          category: 'window',
          shared: true,
          name: 'gathered parameters',
        });
    this.#model = this.#narrow
      ? engine.allocate(Math.max(plan.modelSize, 1) * 4, {
          category: 'window',
          shared: frozen !== undefined && !frozen.inPlace,
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

  #bufferOf({ frozen }: Pick<Gathering, 'frozen'>): ShardedBuffer {
    return frozen ? this.#options.frozen! : this.#options.trained;
  }

  /** What is not widened arrives where it is read. */
  #arrivesIn({ frozen }: Pick<Gathering, 'frozen'>): NativeBuffer {
    if (!frozen) return this.#wire;
    const { inPlace, sent } = this.#options.frozen!;
    return inPlace ? sent.head!.buffer : this.#model;
  }

  /** This rank's shard of a buffer. */
  #shardOf({ layout }: ShardedBuffer): Shard {
    return layout.shards[this.#options.rank]!;
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
    return this.#readAt(gathering, this.#placeIn(gathering.modelPlace, gathering, parameter));
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
      if (!this.#isRead(gathering, plan, position)) continue;
      const after = this.#lastPass === undefined ? [] : [this.#lastPass];
      this.#works.set(gathering, this.#gatherForPass(gathering, after));
    }
    if (plan.training && pass === 'forward') this.#keepSecondary(this.#readBy[position]!);
    for (const gathering of this.#readBy[position]!) {
      const gathered = this.#works.get(gathering);
      if (!gathered || !gathering.widened || this.#widened.has(gathering)) continue;
      this.#widened.add(gathering);
      this.#works.set(gathering, this.#widen(gathering, [gathered]));
    }
  }

  #gatherForPass(gathering: Gathering, after: Work[]): Work {
    const { secondary, allGather } = this.#bufferOf(gathering);
    if (!secondary || gathering.readers[0]! < this.#options.segmentCount) {
      return this.#gather(gathering, after, { allGather });
    }
    return secondary.gather(gathering, this.#arrival(gathering), after);
  }

  /** Before the pass that reads it: then it has arrived, and nothing waits for it that would not anyway. */
  #keepSecondary(gatherings: readonly Gathering[]): void {
    for (const gathering of gatherings) {
      const { secondary } = this.#bufferOf(gathering);
      if (!secondary || this.#kept.has(gathering)) continue;
      this.#kept.add(gathering);
      secondary.keep(gathering, this.#arrival(gathering), [this.#works.get(gathering)!]);
    }
  }

  /** Tap of `release`: windows are read until the pass has ended. */
  release({ work }: SegmentWorkEvent): void {
    this.#lastPass = work;
  }

  /**
   * At a position or later. Evaluation has no backward, a step may leave segments out, and with them the
   * positions where they alone would have been read.
   */
  #isRead({ readers, onlyFor }: Gathering, plan: StepPlan, from: number): boolean {
    const end = (plan.training ? 2 : 1) * this.#options.segmentCount;
    return (
      readers.some((position) => from <= position && position < end) &&
      (onlyFor.length === 0 || onlyFor.some((segment) => !isSkipped(plan, segment)))
    );
  }

  /** What is gathered for the pass; where forwards run again before it, some of those may be left out. */
  ready(segment: number, pass: SegmentEvent['pass']): Work[] {
    const position = positionOf(segment, pass, this.#options.segmentCount);
    return this.#readBy[position]!.flatMap((gathering) => this.#works.get(gathering) ?? []);
  }

  write(parameter: string, read: (start: number, count: number) => Float32Array): void {
    const gathering = this.#holding.get(parameter)![0]!;
    const buffer = this.#bufferOf(gathering);
    const slot = buffer.layout.byName.get(parameter)!;
    const shard = this.#shardOf(buffer);
    const own = intersect(slot, shard);
    if (own.count === 0) return;
    const values = read(own.offset - slot.offset, own.count);
    for (const { range, place } of placesOf(heldSplit(buffer.master, shard), own)) {
      const start = range.offset - own.offset;
      writePlace(place, values.subarray(start, start + range.count));
    }
  }

  /** Each element has one owner, whose value is the truth. */
  share(): null {
    return null;
  }

  read(parameter: string): Float32Array {
    const gathering = this.#holding.get(parameter)![0]!;
    const { engine } = this.#options;
    const { frozen, widened } = gathering;
    const { offset, count } = this.#bufferOf(gathering).layout.byName.get(parameter)!;
    const modelPlace = this.#placeIn(gathering.modelPlace, gathering, parameter);
    if (gathering.readers.length > 0) {
      const wirePlace = this.#placeIn(gathering.wirePlace, gathering, parameter);
      const one = { frozen, widened, offset, count, wirePlace, modelPlace };
      const gathered = this.#gather(one, []);
      engine.waitSync(widened ? this.#widen(one, [gathered]) : gathered);
    }
    const { dtype, ...location } = this.#readAt(gathering, modelPlace);
    return floatsOf(engine, { ...location, count, dtype });
  }

  /**
   * Shards were changed, and `after` ended: what stays whole is gathered anew.
   *
   * @param frozen those that training does not change, too
   * @returns the work after which it is whole; null with nothing to do or to wait for
   */
  refresh(after: readonly Work[], { frozen }: { frozen: boolean }): Work | null {
    const { plan, trained } = this.#options;
    let last = trained.inPlace ? this.#meet(trained, after) : (after.at(-1) ?? null);
    for (const gathering of plan.persistent) {
      if (gathering.frozen && !frozen) continue;
      const behind = last === null ? [] : [last];
      if (!trained.inPlace) last = this.#gather(gathering, [...after], { behind });
      if (gathering.widened) last = this.#widen(gathering, last === null ? [] : [last]);
    }
    return last;
  }

  /** What every rank wrote into its shards before, all see after. */
  #meet({ layout }: ShardedBuffer, after: readonly Work[]): Work {
    const whole = { frozen: false, wirePlace: 0, count: layout.total };
    return this.#options.engine.allGather(this.#arrival(whole), [...layout.shards], [...after]);
  }

  /** @param behind works that must not fail before it; unlike `after`, copying does not wait for them */
  #gather(
    arriving: Arriving,
    after: Work[],
    {
      behind = [],
      allGather = (...call) => this.#options.engine.allGather(...call),
    }: { behind?: Work[]; allGather?: NativeEngine['allGather'] | undefined } = {},
  ): Work {
    const buffer = this.#bufferOf(arriving);
    const own = intersect(arriving, this.#shardOf(buffer));
    const ready = own.count > 0 && !buffer.inPlace ? this.#fetch(own, arriving, after) : after;
    const shards = bucketShards(arriving, buffer.layout);
    return allGather(this.#arrival(arriving), shards, [...ready, ...behind]);
  }

  /** This rank's part of what arrives goes to its place there, from memory and from disk. */
  #fetch(own: Shard, arriving: Arriving, after: Work[]): Work[] {
    const { engine } = this.#options;
    const buffer = this.#bufferOf(arriving);
    const { head, tail } = buffer.sent;
    const { count } = own;
    const first = own.offset - this.#shardOf(buffer).offset;
    const place = arriving.wirePlace + own.offset - arriving.offset;
    const target = (skipped: number, elements: number) =>
      this.#arrival({ ...arriving, wirePlace: place + skipped, count: elements });
    const inMemory = Math.max(0, Math.min(count, (head?.count ?? 0) - first));
    const works: Work[] = [];
    if (inMemory > 0) {
      const byteOffset = head!.byteOffset + first * elementBytes(head!.dtype);
      works.push(
        engine.copy({ ...head!, byteOffset, count: inMemory }, target(0, inMemory), after),
      );
    }
    if (inMemory < count) {
      const region = target(inMemory, alignUp(count - inMemory, swapUnit));
      const fileOffset = tailByte(tail!, first + inMemory);
      works.push(engine.swapIn(tail!.file, [{ fileOffset, region }], after));
    }
    return works;
  }

  #widen(arrived: Arriving & Pick<Gathering, 'modelPlace'>, after: Work[]): Work {
    const { modelPlace, count } = arrived;
    const target = { buffer: this.#model, byteOffset: modelPlace * 4, count } as const;
    return this.#options.engine.copy(
      this.#arrival(arrived),
      { ...target, dtype: 'float32' },
      after,
    );
  }

  /** Where and in which type the model reads it. */
  #readAt({ frozen, widened }: Gathering, place: number): Location & { dtype: FloatType } {
    const dtype = frozen || widened ? 'float32' : this.#type;
    const buffer = widened ? this.#model : this.#arrivesIn({ frozen });
    return { buffer, byteOffset: place * elementBytes(dtype), dtype };
  }

  #arrival({ frozen, wirePlace, count }: Pick<Arriving, 'frozen' | 'wirePlace' | 'count'>): Region {
    const dtype = frozen ? 'float32' : this.#type;
    const buffer = this.#arrivesIn({ frozen });
    return { buffer, byteOffset: wirePlace * elementBytes(dtype), count, dtype };
  }

  #placeIn(place: number, gathering: Gathering, parameter: string): number {
    const { layout } = this.#bufferOf(gathering);
    return place + layout.byName.get(parameter)!.offset - gathering.offset;
  }
}
