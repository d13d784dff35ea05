import type { FrozenParameter } from '../../hooks/index.ts';
import type { FlatLayout, Slot } from '../../layout.ts';
import { firstFit } from './first-fit.ts';

/** DeepSpeed's limits of stage 3, all in elements. */
export interface GatherLimits {
  /** Parameters up to this size stay whole, as long as all of them are no more than `persistentTotal`. */
  persistence: number;
  persistentTotal: number;
  /** Gathered at one time; what a segment needs is gathered all the same. */
  live: number;
  /** Gathered before the segment that needs them is next. */
  prefetch: number;
  /** A parameter that is read again before so many elements of others stays. */
  reuse: number;
}

/**
 * Neighbours of a flat buffer that are gathered, read and released together. Positions count passes of
 * segments: 0 ... S − 1 the forwards, S ... 2S − 1 the backwards, the last segment's first.
 */
export interface Gathering {
  readonly parameters: readonly string[];
  /** Of those that training does not change, which have a flat buffer of their own. */
  readonly frozen: boolean;
  /** It arrives in 16 bits and is read in fp32. */
  readonly widened: boolean;
  /** Elements of the flat buffer. */
  readonly offset: number;
  readonly count: number;
  /** Positions that read it, ascending; none for parameters that stay whole. */
  readonly readers: readonly number[];
  /** Segments that may be left out, where it is read for them alone: a step without them needs it nowhere. */
  readonly onlyFor: readonly number[];
  /** It is gathered when this position begins, and complete when the first reader does. */
  readonly issue: number;
  /**
   * Element offset where it arrives, and where the model reads it: the same unless it is widened. Offsets are those of the
   * flat buffer where nothing moves.
   */
  readonly wirePlace: number;
  readonly modelPlace: number;
}

export interface GatherPlan {
  /** By `issue`, then by the first reader. */
  readonly gatherings: readonly Gathering[];
  /** Gathered once a step, after the optimizer; frozen ones once. */
  readonly persistent: readonly Gathering[];
  /**
   * Elements of the memory where gatherings arrive, and of that where the model reads fp32: the same memory unless
   * 16 bits arrive.
   */
  readonly wireSize: number;
  readonly modelSize: number;
}

/** Parameters and where they lie, one slot each. */
export interface LaidOutParameters {
  parameters: readonly FrozenParameter[];
  layout: FlatLayout;
}

export interface GatherRequest extends LaidOutParameters {
  /** What training does not change, where it is sharded, too. It arrives in fp32, where it is read. */
  frozen?: LaidOutParameters;
  segmentCount: number;
  /** Segments that a step may leave out. */
  skippable?: readonly number[] | undefined;
  limits: GatherLimits;
  /** 16 bits arrive, and what does not take them is widened into other memory before the first reader. */
  narrow: boolean;
  /** Of the places where gatherings arrive, in elements; default: that of the layout's slots. */
  alignment?: number;
  /** Every rank sees the flat buffers whole: what is gathered is where it was, and needs no memory. */
  inPlace?: boolean;
}

/** Position of a pass of a segment. */
export function positionOf(
  segment: number,
  pass: 'forward' | 'backward',
  segmentCount: number,
): number {
  return pass === 'forward' ? segment : 2 * segmentCount - 1 - segment;
}

/** A slot of one of the flat buffers; neighbours of a buffer have indices that follow each other. */
interface Place {
  readonly slot: Slot;
  readonly frozen: boolean;
  readonly widened: boolean;
  readonly onlyFor: readonly number[];
  readonly index: number;
}

/** A stay of one parameter in memory. */
interface Stay extends Place {
  readonly readers: number[];
  issue: number;
}

/**
 * What is gathered when, and where to: decided once, since the order of segments is known. Every rank
 * comes to the same plan, which is the order of its collectives.
 */
export function planGathers(request: GatherRequest): GatherPlan {
  const { segmentCount, limits, narrow, inPlace = false } = request;
  const positions = 2 * segmentCount;
  const places = placesOf(request);
  const whole = persistentOnes(places, limits);
  const stays: Stay[] = places.flatMap(({ parameter, ...place }) =>
    whole.has(place.slot)
      ? []
      : readersOf(parameter, segmentCount).map((at) => ({ ...place, readers: [at], issue: at })),
  );
  const live = new Array<number>(positions).fill(0);
  for (const { slot, readers } of stays) live[readers[0]!]! += slot.count;
  const kept = keepForReuse(stays, live, limits);
  issueAhead(kept, live, limits);

  const groups = [
    ...group(kept),
    ...group(
      places.flatMap(({ parameter: _, ...place }) =>
        whole.has(place.slot) ? [{ ...place, readers: [], issue: -1 }] : [],
      ),
    ),
  ];
  // What stays whole is there throughout; it arrives between steps, at position -1.
  const lastReader = (one: Group) => one.readers.at(-1) ?? positions;
  const model = placesIn(
    groups.filter(({ frozen, widened }) => widened || (!inPlace && (!narrow || frozen))),
    (one) => [one.widened ? (one.readers[0] ?? -1) : one.issue, lastReader(one)],
    request.alignment,
  );
  const wire = placesIn(
    narrow && !inPlace ? groups.filter(({ frozen }) => !frozen) : [],
    (one) => [one.issue, one.widened ? (one.readers[0] ?? -1) : lastReader(one)],
    request.alignment,
  );
  const placed = groups.map((one) => {
    const { end: _, ...gathering } = one;
    const lies = inPlace ? one.offset : model.places.get(one)!;
    const wirePlace = wire.places.get(one) ?? lies;
    return { ...gathering, wirePlace, modelPlace: model.places.get(one) ?? wirePlace };
  });
  return {
    gatherings: placed
      .filter(({ readers }) => readers.length > 0)
      .sort(
        (a, b) =>
          a.issue - b.issue ||
          a.readers[0]! - b.readers[0]! ||
          Number(a.frozen) - Number(b.frozen) ||
          a.offset - b.offset,
      ),
    persistent: placed.filter(({ readers }) => readers.length === 0),
    wireSize: narrow ? wire.size : model.size,
    modelSize: model.size,
  };
}

/** Element offsets of groups that are there from one position to another. */
function placesIn(
  groups: readonly Group[],
  stayOf: (one: Group) => [first: number, last: number],
  alignment: number | undefined,
): { places: Map<Group, number>; size: number } {
  const lives = groups.map((one) => {
    const [first, last] = stayOf(one);
    return { first, last, count: one.count };
  });
  const { offsets, size } = firstFit(lives, alignment);
  return { places: new Map(groups.map((one, index) => [one, offsets[index]!])), size };
}

/** The slots of both buffers. No slot of the one is a neighbour of the other's. */
function placesOf({
  frozen,
  narrow,
  skippable = [],
  ...trained
}: GatherRequest): (Place & { parameter: FrozenParameter })[] {
  const onlyFor = ({ segments }: FrozenParameter) =>
    segments.every((segment) => skippable.includes(segment)) ? segments : [];
  const places = ({ parameters, layout }: LaidOutParameters, isFrozen: boolean, first: number) =>
    parameters.map((parameter, index) => ({
      parameter,
      slot: layout.slots[index]!,
      frozen: isFrozen,
      widened: narrow && !isFrozen && !parameter.takes16Bits,
      onlyFor: onlyFor(parameter),
      index: first + index,
    }));
  const gap = trained.parameters.length + 1;
  return [...places(trained, false, 0), ...(frozen ? places(frozen, true, gap) : [])];
}

/** What no pass reads stays whole, too: there is no pass to gather it for. */
function persistentOnes(
  places: readonly (Place & { parameter: FrozenParameter })[],
  limits: GatherLimits,
): Set<Slot> {
  const whole = new Set<Slot>();
  let total = 0;
  for (const { slot, parameter } of places) {
    if (parameter.segments.length === 0) {
      whole.add(slot);
      continue;
    }
    if (slot.count > limits.persistence || total + slot.count > limits.persistentTotal) continue;
    total += slot.count;
    whole.add(slot);
  }
  return whole;
}

function readersOf(parameter: FrozenParameter, segmentCount: number): number[] {
  const { segments, readBackward = segments } = parameter;
  return [
    ...segments.map((segment) => positionOf(segment, 'forward', segmentCount)),
    ...readBackward.map((segment) => positionOf(segment, 'backward', segmentCount)),
  ].sort((a, b) => a - b);
}

/** Joins neighbouring stays of a parameter, the nearest first, where distance and memory allow it. */
function keepForReuse(stays: readonly Stay[], live: number[], limits: GatherLimits): Stay[] {
  const readAt = live.slice();
  const between = (from: number, to: number) =>
    readAt.slice(from + 1, to).reduce((sum, count) => sum + count, 0);
  const pairs = stays
    .flatMap((one, index) => {
      const next = stays[index + 1];
      if (next?.slot !== one.slot) return [];
      const [from, to] = [one.readers[0]!, next.readers[0]!];
      return [{ one, next, from, to, distance: between(from, to) }];
    })
    .filter(({ distance }) => distance < limits.reuse)
    .sort((a, b) => a.distance - b.distance || a.from - b.from || a.one.index - b.one.index);
  const joined = new Map<Stay, Stay>();
  const head = (stay: Stay): Stay => {
    const earlier = joined.get(stay);
    return earlier ? head(earlier) : stay;
  };
  for (const { one, next, from, to } of pairs) {
    if (!addLive(live, from + 1, to, one.slot.count, limits.live)) continue;
    head(one).readers.push(...next.readers);
    joined.set(next, one);
  }
  return stays.filter((stay) => !joined.has(stay));
}

/**
 * Moves gathers to earlier positions, in the order in which they are needed, as far as the limits go. Two
 * stays of a parameter are never there at once: a second one would only repeat the first, and one from the
 * secondary shard (zero_hpz_partition_size) would come before the first has filled that.
 */
function issueAhead(stays: readonly Stay[], live: number[], limits: GatherLimits): void {
  const queue = [...stays].sort((a, b) => a.readers[0]! - b.readers[0]! || a.index - b.index);
  const endBefore = new Map(
    stays.map((stay, index) => {
      const before = stays[index - 1];
      return [stay, before?.slot === stay.slot ? before.readers.at(-1)! : -1];
    }),
  );
  let next = 0;
  for (let position = 0; position < live.length; position += 1) {
    while (next < queue.length && queue[next]!.readers[0]! <= position) next += 1;
    let ahead = queue
      .slice(0, next)
      .reduce((sum, { readers, slot }) => sum + (readers[0]! > position ? slot.count : 0), 0);
    while (next < queue.length) {
      const stay = queue[next]!;
      if (endBefore.get(stay)! >= position) break;
      ahead += stay.slot.count;
      if (ahead > limits.prefetch) break;
      if (!addLive(live, position, stay.readers[0]!, stay.slot.count, limits.live)) break;
      stay.issue = position;
      next += 1;
    }
  }
}

/** Adds to the positions [from, to), unless one of them came above the limit. */
function addLive(live: number[], from: number, to: number, count: number, limit: number): boolean {
  for (let at = from; at < to; at += 1) if (live[at]! + count > limit) return false;
  for (let at = from; at < to; at += 1) live[at]! += count;
  return true;
}

interface Group {
  parameters: string[];
  frozen: boolean;
  widened: boolean;
  offset: number;
  count: number;
  readers: readonly number[];
  onlyFor: readonly number[];
  issue: number;
  /** Index of the slot after it. */
  end: number;
}

/** Neighbours that come and go together, or not at all, and are read in one type, make one collective. */
function group(stays: readonly Stay[]): Group[] {
  const groups: Group[] = [];
  type Key = Pick<Group, 'readers' | 'issue' | 'widened' | 'onlyFor'>;
  const key = ({ readers, issue, widened, onlyFor }: Key) =>
    `${issue} ${readers} ${widened} ${onlyFor}`;
  const ordered = [...stays].sort((a, b) => {
    const [one, other] = [key(a), key(b)];
    return one < other ? -1 : one > other ? 1 : a.index - b.index;
  });
  for (const stay of ordered) {
    const { slot, index } = stay;
    const last = groups.at(-1);
    if (last && last.end === index && key(last) === key(stay)) {
      last.parameters.push(slot.name);
      last.count = slot.offset + slot.count - last.offset;
      last.end = index + 1;
    } else {
      const { offset, count } = slot;
      const { frozen, widened, readers, onlyFor, issue } = stay;
      const when = { readers, onlyFor, issue };
      const parameters = [slot.name];
      groups.push({ parameters, frozen, widened, offset, count, ...when, end: index + 1 });
    }
  }
  return groups;
}
