/** `rank-launch.ts JOB`: one probe among ranks of this machine, or of several, by the launcher. */
import type { Socket } from 'node:net';
import { fileURLToPath } from 'node:url';
import type { HostsPlan } from '../hosts/launch-on-hosts.ts';
import { launch } from '../launch.ts';
import type { ProbePlan } from './probes.ts';

export interface RankJob {
  ranks: number;
  /** To share out among them, or null. */
  cores: number[] | null;
  /** Several machines, of which all chosen slots take part; null: this one. */
  hosts: HostsPlan | null;
  plan: ProbePlan;
}

// Whoever asks for the probe holds the other end of its input: with the asker it ends, and its ranks with it.
process.stdin.on('close', () => process.exit(1)).resume();
(process.stdin as Socket).unref();

const { ranks, cores, hosts, plan } = JSON.parse(process.argv[2]!) as RankJob;
const script = new URL(`rank-probe${import.meta.url.slice(-3)}`, import.meta.url);
process.exitCode = await launch({
  script: fileURLToPath(script),
  module: false,
  scriptArguments: [JSON.stringify(plan)],
  numProcs: ranks,
  hosts,
  maxRestarts: 0,
  deepspeedConfig: null,
  bindCoresToRank: cores !== null,
  bindCoreList: cores?.join(',') ?? null,
  rankLogFolder: null,
  masterPort: null,
  hangTimeoutMs: 60_000,
  gracePeriodMs: 0,
  // Whoever asks has told the user.
  oversubscribe: true,
  quiet: true,
});
