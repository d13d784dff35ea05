/** What a check measures with: all-reduces among some of the machines (or ranks of one), each with a time limit. */

/** Which sizes one probe goes through. */
export interface ProbePlan {
  /** Bytes of the vectors, ascending. */
  sizes: readonly number[];
  /** No larger size after one that took longer than this. */
  enoughMs: number;
}

/** One size: bytes of the vector on every member, and the seconds of the fastest all-reduce. */
export interface Reading {
  bytes: number;
  seconds: number;
}

/** What a probe of one group brought. */
export interface Probe {
  /** None where it did not end in time, or lost a member. */
  readings: Reading[];
  /** Why there are none, or null. */
  error: string | null;
}

/** Why a member takes no part any more. */
export type LossKind = 'unreachable' | 'died' | 'stopped' | 'cut off' | 'other version';

export interface Lost {
  member: number;
  kind: LossKind;
  /** What was seen, for people. */
  evidence: string;
}

export interface Probes {
  /** Of all members, in the order of their numbers. */
  readonly names: readonly string[];
  /** Members take turns on the same cores: how quick a pair is says nothing about its link. */
  readonly sharesCores: boolean;
  /** Those that are there, ascending. A member that is lost stays so. */
  present(): number[];
  readonly lost: readonly Lost[];
  /** The groups, which share no member, measure at the same time. */
  measure(groups: readonly (readonly number[])[], plan: ProbePlan): Promise<Probe[]>;
  /** All ranks of these members, joined as in a run. Absent where that is how `measure` does it. */
  measureRun?(members: readonly number[], plan: ProbePlan): Promise<Probe>;
  close(): Promise<void>;
}

/** For a link or a group that is searched: enough for its bandwidth. */
export const probePlan: ProbePlan = { sizes: [256 << 10, 1 << 20, 4 << 20], enoughMs: 50 };
/** From what latency decides to what bandwidth decides. */
export const sweepPlan: ProbePlan = {
  sizes: [4 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20],
  enoughMs: 300,
};

/**
 * Bus bandwidth, bytes/s: an all-reduce over n members has to bring 2·(n − 1)/n of the vector out of each of them
 * and into it, whatever the algorithm. Between two it is what the link carries each way.
 */
export function busBandwidth({ bytes, seconds }: Reading, members: number): number {
  return (2 * (members - 1) * bytes) / members / seconds;
}

/** With the largest vectors, bytes/s: small ones pass in a switch's buffers. 0 where nothing came through in time. */
export function largeBandwidth(readings: readonly Reading[], members: number): number {
  const largest = readings.at(-1);
  return largest === undefined ? 0 : busBandwidth(largest, members);
}
