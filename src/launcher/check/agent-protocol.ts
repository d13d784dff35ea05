/** What the check and its agents say to each other: a line of JSON each, over the agent's standard input and output. */
import type { ProbePlan, Reading } from './probes.ts';

/** The first line to an agent. Who connects to one has to know the token. */
export interface Greeting {
  token: string;
}

/** The first line of an agent. */
export interface AgentHello {
  hello: { version: string; host: string; pid: number; port: number };
}

/** An all-reduce with others. */
export interface Order {
  id: number;
  /** Where each member listens, in their order. */
  places: { address: string; port: number }[];
  /** This agent among them. */
  me: number;
  plan: ProbePlan;
  /** After this it is given up. */
  limitMs: number;
}

/** The others of an order have given it up. */
export interface Abandon {
  abandon: number;
}

export interface Answer {
  id: number;
  /** Of the member that leads; the others have none. */
  readings: Reading[];
  /** Why it was given up, or null. */
  error: string | null;
}

/** An empty line: the agent is alive. */
export const BEAT_MS = 500;

/** The line as what it should be, or null: a login may print things of its own. */
export function parseLine<T>(line: string): T | null {
  try {
    const value: unknown = JSON.parse(line);
    return typeof value === 'object' ? (value as T) : null;
  } catch {
    return null;
  }
}
