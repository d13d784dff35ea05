/** Which slots of which machines a run uses: `--include`, `--exclude`, `--num_nodes`, `--num_procs`. */
import { DeepSpeedError } from '../../errors.ts';
import { nearest } from '../../nearest.ts';
import type { Host } from './hostfile.ts';

/** A machine and the slots of it that get a rank each, ascending; never none. */
export interface ChosenHost {
  name: string;
  slots: number[];
}

/** As on the command line; null: not given. */
export interface HostFilter {
  /** `HOST[:SLOT,…][@HOST…]`: only these. */
  include: string | null;
  /** The same syntax: all but these. */
  exclude: string | null;
  /** The first so many hosts. */
  numNodes: number | null;
  /** The first so many slots of each host. */
  numProcs: number | null;
}

/**
 * The hosts of the run in the order of the hostfile, which is the order of their ranks.
 *
 * @throws DeepSpeedError LAUNCHER_USAGE: unknown hosts and slots, flags that exclude each other, nothing left.
 */
export function chooseHosts(hosts: readonly Host[], filter: HostFilter): ChosenHost[] {
  const { include, exclude, numNodes, numProcs } = filter;
  const given = (['include', 'exclude', 'numNodes', 'numProcs'] as const).filter(
    (name) => filter[name] !== null,
  );
  const byName = given.find((name) => name === 'include' || name === 'exclude');
  if (byName !== undefined && given.length > 1)
    refuse(
      `--${byName} cannot be combined with ${given
        .filter((name) => name !== byName)
        .map(flagOf)
        .join(' and ')}`,
      'Choose hosts and slots in one way.',
    );
  if (include !== null) return applyInclude(hosts, include);
  if (exclude !== null) return applyExclude(hosts, exclude);
  if (numNodes !== null && numNodes > hosts.length)
    refuse(
      `--num_nodes is ${numNodes}, the hostfile has ${hosts.length} host${hosts.length === 1 ? '' : 's'}`,
      'Lower it, or add hosts to the hostfile.',
    );
  return hosts.slice(0, numNodes ?? hosts.length).map(({ name, slots }) => {
    if (numProcs !== null && numProcs > slots)
      refuse(
        `--num_procs is ${numProcs}, the hostfile gives ${name} slots=${slots}`,
        'Lower it, or raise the slots in the hostfile. With a hostfile it counts ranks per host.',
      );
    return { name, slots: range(numProcs ?? slots) };
  });
}

function applyInclude(hosts: readonly Host[], text: string): ChosenHost[] {
  const wanted = parseFilter(hosts, text, '--include');
  return hosts
    .filter(({ name }) => wanted.has(name))
    .map(({ name, slots }) => ({ name, slots: wanted.get(name) ?? range(slots) }));
}

function applyExclude(hosts: readonly Host[], text: string): ChosenHost[] {
  const unwanted = parseFilter(hosts, text, '--exclude');
  const left = hosts
    .map(({ name, slots }) => {
      const gone = unwanted.has(name) ? (unwanted.get(name) ?? range(slots)) : [];
      return { name, slots: range(slots).filter((slot) => !gone.includes(slot)) };
    })
    .filter(({ slots }) => slots.length > 0);
  if (left.length === 0)
    refuse(`--exclude ${text} leaves no slot of any host`, 'Exclude less of the hostfile.');
  return left;
}

/** Host → its slots, ascending, or null for all of them. A host named twice has the union. */
function parseFilter(
  hosts: readonly Host[],
  text: string,
  flag: string,
): Map<string, number[] | null> {
  const chosen = new Map<string, number[] | null>();
  for (const part of text.split('@')) {
    const [, name, list] = /^\s*([^\s:]+)(?::([\d,\s]*))?\s*$/.exec(part) ?? [];
    const numbers = list?.split(',').map((word) => word.trim());
    if (name === undefined || numbers?.some((word) => word === ''))
      return refuse(
        `${flag} got "${part}", expected HOST or HOST:SLOT,SLOT`,
        `Write it like ${flag} worker-0@worker-1:0,2.`,
      );
    const host = hosts.find((known) => known.name === name);
    if (host === undefined) {
      const near = nearest(
        name,
        hosts.map((known) => known.name),
      );
      return refuse(
        `${flag} names ${name}, which is not in the hostfile${near ? `; did you mean ${near}?` : ''}`,
        `The hostfile has ${hosts.map((known) => known.name).join(', ')}.`,
      );
    }
    const before = chosen.get(name);
    if (numbers === undefined || before === null) {
      chosen.set(name, null);
      continue;
    }
    const slots = new Set([...(before ?? []), ...numbers.map(Number)]);
    const foreign = [...slots].find((slot) => slot >= host.slots);
    if (foreign !== undefined)
      refuse(
        `${flag} names slot ${foreign} of ${name}, which has slots=${host.slots}`,
        `Slots count from 0 to ${host.slots - 1}.`,
      );
    chosen.set(
      name,
      [...slots].sort((a, b) => a - b),
    );
  }
  return chosen;
}

function range(count: number): number[] {
  return Array.from({ length: count }, (_, index) => index);
}

function flagOf(name: string): string {
  return `--${name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)}`;
}

function refuse(message: string, fix: string): never {
  throw new DeepSpeedError('LAUNCHER_USAGE', message, { fix });
}
