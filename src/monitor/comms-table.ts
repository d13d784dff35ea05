/** The table of DeepSpeed's comms_logger: per operation and message size, latency and bandwidth. */
import type { CommStats } from '../native/contract.ts';
import type { MonitorEvent } from './events.ts';
import { formatBytes } from './units.ts';

export interface CommsTableOptions {
  worldSize: number;
  /** Operations to show; absent: all (`prof_all`). */
  operations?: readonly string[];
}

const columns = [
  'Comm. Op',
  'Message Size',
  'Count',
  'Total Latency(ms)',
  'Avg Latency(ms)',
  'tput_avg (Gbps)',
  'busbw_avg (Gbps)',
];
const WIDTH = 20;

/** What was measured of one operation and message size. */
interface CommsRow {
  operation: string;
  bytes: number;
  calls: number;
  totalMs: number;
  averageMs: number;
  /** Gbit/s; see bandwidth. */
  algorithm: number;
  bus: number;
}

function rowsOf(
  stats: readonly CommStats[],
  { worldSize, operations }: CommsTableOptions,
): CommsRow[] {
  const wanted = operations && new Set(operations.map(plainName));
  return stats
    .filter(({ calls, operation }) => calls > 0 && (wanted?.has(plainName(operation)) ?? true))
    .sort((a, b) => a.operation.localeCompare(b.operation) || a.bytes - b.bytes)
    .map(({ operation, bytes, calls, totalNs }) => {
      const averageMs = totalNs / calls / 1e6;
      const speed = bandwidth(operation, bytes, averageMs / 1e3, worldSize);
      return { operation, bytes, calls, totalMs: totalNs / 1e6, averageMs, ...speed };
    });
}

/** The table's numbers for monitors: `Comms/allReduce/4096/calls`, by operation and bytes of a message. */
export function commsEvents(
  stats: readonly CommStats[],
  options: CommsTableOptions,
  step: number,
): MonitorEvent[] {
  return rowsOf(stats, options).flatMap((entry) => {
    const values = {
      bytes: entry.bytes * entry.calls,
      calls: entry.calls,
      total_latency_ms: entry.totalMs,
      avg_latency_ms: entry.averageMs,
      tput_avg_gbps: entry.algorithm,
      busbw_avg_gbps: entry.bus,
    };
    const group = `Comms/${entry.operation}/${entry.bytes}`;
    return Object.entries(values).map(([name, value]) => ({
      name: `${group}/${name}`,
      value,
      step,
    }));
  });
}

/**
 * @param stats one row per operation and size; `bytes` is one message's, as the communicator counts
 */
export function renderCommsTable(
  stats: readonly CommStats[],
  options: CommsTableOptions,
): string[] {
  const lines = [row(columns)];
  let operation = '';
  for (const entry of rowsOf(stats, options)) {
    if (entry.operation !== operation) {
      operation = entry.operation;
      lines.push(operation);
    }
    const numbers = [entry.totalMs, entry.averageMs, entry.algorithm, entry.bus];
    lines.push(
      row([
        '',
        formatBytes(entry.bytes),
        String(entry.calls),
        ...numbers.map((value) => value.toFixed(2)),
      ]),
    );
  }
  return lines;
}

/** all_reduce, as DeepSpeed's prof_ops spells it, and allReduce are one operation. */
function plainName(operation: string): string {
  return operation.replaceAll('_', '').toLowerCase();
}

function row(cells: string[]): string {
  return cells
    .map((cell) => cell.padEnd(WIDTH))
    .join('')
    .trimEnd();
}

/**
 * Gbit/s as nccl-tests define them: the algorithm's, size over time, and the bus's, which counts what
 * a ring would move and so compares with the hardware. DeepSpeed doubles the algorithm's bandwidth of
 * an all-reduce; that is kept. `bytes` is the whole region, all ranks' parts together.
 */
export function bandwidth(
  operation: string,
  bytes: number,
  seconds: number,
  ranks: number,
): { algorithm: number; bus: number } {
  const gigabits = (amount: number) => (seconds > 0 ? (amount * 8) / seconds / 1e9 : 0);
  const others = (ranks - 1) / ranks;
  switch (plainName(operation)) {
    case 'allreduce':
      return { algorithm: gigabits(2 * bytes), bus: gigabits(bytes * 2 * others) };
    case 'allgather':
    case 'reducescatter':
    case 'alltoall':
      return { algorithm: gigabits(bytes), bus: gigabits(bytes * others) };
    default:
      return { algorithm: gigabits(bytes), bus: gigabits(bytes) };
  }
}
