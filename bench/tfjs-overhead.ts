/** An unchanged TensorFlow.js script on one rank under the launcher, against plain node. */
import { type Bench, measure, type Report } from './lib.ts';
import { epochSeconds } from './ranks/tfjs-script.ts';

async function run({ log }: { log(line: string): void }): Promise<Report> {
  const subject = (ranks: number | null, name: string) => ({
    name,
    run: () => epochSeconds('cpu', 5, ranks),
  });
  const times = await measure([subject(null, 'node'), subject(1, 'launcher')], {
    warmup: 0,
    rounds: 7,
  });
  const [node, launcher] = [times.get('node')!, times.get('launcher')!];
  log(`${node.median.toFixed(3)} s an epoch, ${launcher.median.toFixed(3)} s under the launcher`);
  return {
    figures: {
      epoch_s_node: node.median,
      epoch_s_launcher: launcher.median,
      spread_node: node.spread,
      spread_launcher: launcher.spread,
    },
    aims: [
      {
        name: 'slower under the launcher, fraction',
        value: launcher.median / node.median - 1,
        op: '<=',
        aim: 0.03,
      },
    ],
  };
}

export default { about: 'one rank under the launcher against plain node', run } satisfies Bench;
