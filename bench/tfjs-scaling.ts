/**
 * Samples a second of an unchanged TensorFlow.js script, plain node against two ranks on two cores. On the
 * cpu backend nearly all time is JavaScript arithmetic, which splits with the rows. On wasm a step is far
 * shorter while what does not split stays: gradients and weights are copied out of and into WebAssembly
 * memory (2 + 0.3 ms per 4 MB), the batch is gathered and digested on every rank. Hence its lower aim. The
 * limit is two plain processes at once, each with half of the rows and nothing to say to the other.
 */
import { type Bench, measure, type Report } from './lib.ts';
import { epochSeconds } from './ranks/tfjs-script.ts';

const cases = [
  { backend: 'cpu', epochs: 5, aim: 1.8 },
  { backend: 'wasm', epochs: 20, aim: 1.2 },
] as const;
const samples = 256;

async function run({ log, only }: { log(line: string): void; only: string }): Promise<Report> {
  const report: Report = { figures: {}, aims: [] };
  for (const { backend, epochs, aim } of cases.filter((one) => one.backend.includes(only))) {
    const half = () => epochSeconds(backend, epochs, null, samples / 2);
    const times = await measure(
      [
        { name: 'node', run: () => epochSeconds(backend, epochs, null, samples) },
        { name: 'ranks', run: () => epochSeconds(backend, epochs, 2, samples) },
        { name: 'limit', run: async () => Math.max(...(await Promise.all([half(), half()]))) },
      ],
      { warmup: 0, rounds: 5 },
    );
    const [node, ranks, limit] = ['node', 'ranks', 'limit'].map((name) => times.get(name)!);
    log(
      `${backend}: ${node!.median.toFixed(3)} s an epoch alone, ${ranks!.median.toFixed(3)} s on 2 ranks, ${limit!.median.toFixed(3)} s in two processes with half of the rows: ${(limit!.median / ranks!.median).toFixed(2)} of what the machine gives`,
    );
    report.figures[`${backend}_samples_per_s_node`] = samples / node!.median;
    report.figures[`${backend}_samples_per_s_2_ranks`] = samples / ranks!.median;
    report.figures[`${backend}_samples_per_s_limit`] = samples / limit!.median;
    report.figures[`${backend}_spread_node`] = node!.spread;
    report.figures[`${backend}_spread_2_ranks`] = ranks!.spread;
    report.figures[`${backend}_spread_limit`] = limit!.spread;
    report.figures[`${backend}_speed_up_limit`] = node!.median / limit!.median;
    report.figures[`${backend}_of_limit`] = limit!.median / ranks!.median;
    const value = node!.median / ranks!.median;
    report.aims.push({ name: `${backend}: speed-up on 2 ranks`, value, op: '>=', aim });
  }
  return report;
}

export default { about: 'an unchanged TensorFlow.js script on 1 and 2 ranks', run } satisfies Bench;
