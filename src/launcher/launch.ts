/** One run: N rank processes on this machine, from the check of everything the user named to their end. */
import { randomInt } from 'node:crypto';
import { existsSync } from 'node:fs';
import { createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import { resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { readConfig } from '../config/index.ts';
import { DeepSpeedError } from '../errors.ts';
import type { NativeAddon, RunFds } from '../native/contract.ts';
import { loadAddon } from '../native/index.ts';
import { withoutBystander } from './bystanders.ts';
import { bindingPlan, usableCores } from './cores.ts';
import { oomKillCount } from './failure.ts';
import { nurseryFlags } from './nursery.ts';
import { Terminal } from './output.ts';
import { packageVersion } from './package-version.ts';
import { openRankLogs } from './rank-log.ts';
import { RankProcess, type RankStart } from './rank-process.ts';
import { reportLines, runStatus } from './report.ts';
import { PRIVATE_VARIABLE, RANK_PID_VARIABLE, RESTART_VARIABLE } from './run-environment.ts';
import { requireRoom } from './room.ts';
import { resolveScript, type Script, typescriptFlags } from './script.ts';
import { rankCount } from './hosts/commands.ts';
import { HOSTS_VARIABLE } from './hosts/hosts-environment.ts';
import {
  type HostsPlan,
  isThisMachine,
  requireTools,
  runOnHosts,
} from './hosts/launch-on-hosts.ts';
import { type RunOutcome, supervise } from './supervise.ts';

export interface LaunchOptions {
  /** A file, or with `module` a package specifier. */
  script: string;
  module: boolean;
  scriptArguments: string[];
  /** Null: as many as there are cores, quotas of containers included. */
  numProcs: number | null;
  /** More ranks a core than can be meant by mistake are meant. */
  oversubscribe: boolean;
  /** Several machines, or null for this one. */
  hosts: HostsPlan | null;
  /** So often a failed run is started anew, without the machines that it lost. */
  maxRestarts: number;
  /** Path of the DeepSpeed config, or null. */
  deepspeedConfig: string | null;
  bindCoresToRank: boolean;
  /** Like `0-3,8`; null: all cores that the launcher may use. */
  bindCoreList: string | null;
  /** Folder for one pair of files per rank, or null. */
  rankLogFolder: string | null;
  /** Null: a port that is free. */
  masterPort: number | null;
  hangTimeoutMs: number;
  gracePeriodMs: number;
  /** No notes and warnings of the launcher's own; errors always show. */
  quiet: boolean;
}

/**
 * Runs the script on all ranks.
 *
 * @returns the exit status: 0, that of the rank that failed first, or 128 + a signal's number.
 * @throws DeepSpeedError before any rank is started: script, config, room, cores, logs; NativeError when
 * the engine is not built or memory for the run cannot be had.
 */
export async function launch(options: LaunchOptions): Promise<number> {
  withoutBystander(process.env);
  const outerRank = process.env[RANK_PID_VARIABLE] === undefined ? undefined : process.env.RANK;
  const stdout = new Terminal(process.stdout);
  const stderr = new Terminal(process.stderr);
  const say = (text: string) => {
    if (!options.quiet) void stderr.write(`deepspeed: ${text}\n`);
  };

  if (outerRank === '0')
    say(
      'note: rank 0 of another run started this one, as every rank of that does: its ranks train with each other, and with nobody else',
    );
  const script = resolveScript(options.script, options.module);
  const deepspeedConfig = checkConfig(options.deepspeedConfig);
  const setting = { script, deepspeedConfig, terminals: { stdout, stderr }, say };
  let { hosts } = options;
  for (let restart = 0; ; restart++) {
    const { outcome, lines, lostHosts } = hosts
      ? await launchOnHosts({ ...options, hosts }, setting)
      : await launchHere(options, setting);
    for (const line of lines) await stderr.write(`${line}\n`);
    const status = runStatus(outcome);
    if (status === 0 || outcome.stopped?.kind === 'signal' || restart >= options.maxRestarts)
      return status;
    if (hosts) {
      const healthy = hosts.hosts.filter(({ name }) => !lostHosts.includes(name));
      if (healthy.length === 0) return status;
      hosts = { ...hosts, hosts: healthy };
    }
    const without = lostHosts.length > 0 ? ` without ${lostHosts.join(', ')}` : '';
    await stderr.write(`deepspeed: restart ${restart + 1} of ${options.maxRestarts}${without}\n`);
    process.env[RESTART_VARIABLE] = String(restart + 1);
    stderr.muted = false;
  }
}

/** What one attempt needs beside the options. */
interface Setting {
  script: Script;
  deepspeedConfig: string | null;
  terminals: { stdout: Terminal; stderr: Terminal };
  say: (text: string) => void;
}

/** How one attempt ended, and what there is to say about it. */
interface Attempt {
  outcome: RunOutcome;
  lines: string[];
  lostHosts: string[];
}

async function launchOnHosts(
  options: LaunchOptions & { hosts: HostsPlan },
  { script, deepspeedConfig, terminals, say }: Setting,
): Promise<Attempt> {
  const { hosts: plan, bindCoresToRank, bindCoreList, hangTimeoutMs, gracePeriodMs } = options;
  for (const { name, slots } of plan.hosts)
    if (isThisMachine(name)) requireRoomHere(slots.length, options.oversubscribe);
  requireTools(plan);
  const worldSize = rankCount(plan.hosts);
  const outcome = await runOnHosts({
    plan,
    argv: [process.execPath, ...rankFlags(script), script.path, ...options.scriptArguments],
    run: {
      masterPort: options.masterPort ?? (await freePort()),
      hangTimeoutMs,
      deepspeedConfig,
      bindCoresToRank,
      bindCoreList,
      seed: runSeed(),
    },
    gracePeriodMs,
    terminals,
    logs:
      options.rankLogFolder === null ? null : openRankLogs(options.rankLogFolder, worldSize, say),
    say,
  });
  const lines = reportLines(outcome, worldSize, null, terminals.stderr);
  return { outcome, lines, lostHosts: outcome.lostHosts };
}

async function launchHere(
  options: LaunchOptions,
  { script, deepspeedConfig, terminals, say }: Setting,
): Promise<Attempt> {
  const { stdout, stderr } = terminals;
  const addon = loadAddon();
  const available = usableCores();
  const worldSize = options.numProcs ?? available;
  requireRoomHere(worldSize, options.oversubscribe);
  if (worldSize > available)
    say(
      `warning: ${worldSize} ranks share ${available} ${available === 1 ? 'core' : 'cores'}; they will wait for each other. --num_procs ${available} is faster.`,
    );
  const bound = options.bindCoresToRank ? bindingPlan(worldSize, options.bindCoreList) : null;
  const masterPort = options.masterPort ?? (await freePort());
  const logs =
    options.rankLogFolder === null ? null : openRankLogs(options.rankLogFolder, worldSize, say);

  const seed = runSeed();
  const oomKillsBefore = oomKillCount();
  const fds = addon.createRunFds(worldSize);
  const control = addon.openRunControl(fds.controlFd, worldSize);
  const ranks = startRanks(addon, fds, worldSize, (rank) => ({
    argv: [
      ...nurseryFlags(worldSize, available),
      ...rankFlags(script),
      script.path,
      ...options.scriptArguments,
    ],
    environment: {
      version: packageVersion,
      rank,
      worldSize,
      localRank: rank,
      localSize: worldSize,
      hangTimeoutMs: options.hangTimeoutMs,
      deepspeedConfig,
      cores: bound?.[rank] ?? null,
      threads: bound?.[rank]?.length ?? Math.max(1, Math.floor(available / worldSize)),
      seed,
      launcherPid: process.pid,
    },
    ...fds,
    masterPort,
    terminals: { stdout, stderr },
    logs: logs?.[rank] ?? null,
  }));

  const { gracePeriodMs, hangTimeoutMs } = options;
  const outcome = await supervise(ranks, { control, gracePeriodMs, hangTimeoutMs, stderr, say });
  control.dispose();
  return {
    outcome,
    lines: reportLines(outcome, worldSize, oomKillsBefore, stderr),
    lostHosts: [],
  };
}

function requireRoomHere(ranks: number, oversubscribe: boolean): void {
  const { memoryAvailable } = loadAddon().systemLimits();
  requireRoom(ranks, { cores: usableCores(), memoryAvailable }, oversubscribe);
}

/** A fault in the config is told once, here, and not by every rank. */
function checkConfig(path: string | null): string | null {
  if (path === null) return null;
  readConfig(path);
  // What is not a file has been read as base64, and travels as it is.
  return existsSync(path) ? resolve(path) : path;
}

/** Starts every rank; the descriptors then live in the ranks only, and end with them. */
function startRanks(
  addon: NativeAddon,
  fds: RunFds,
  worldSize: number,
  start: (rank: number) => RankStart,
): RankProcess[] {
  const ranks: RankProcess[] = [];
  try {
    for (let rank = 0; rank < worldSize; rank++) ranks.push(new RankProcess(start(rank)));
    return ranks;
  } catch (error) {
    for (const rank of ranks) rank.kill('SIGKILL');
    throw error;
  } finally {
    addon.closeFds([fds.controlFd, ...fds.arenaFds]);
  }
}

/**
 * Flags of `node` for a rank: what the script needs, what the preload needs, the preload. Workers and
 * forks get the same flags; what finds no run there is loaded into them instead. Not from sources into
 * workers: tsx, under Node 20, does not serve them.
 */
function rankFlags(script: Script): string[] {
  const fromSources = import.meta.url.endsWith('.ts');
  const own = fromSources ? typescriptFlags(fileURLToPath(import.meta.url)) : [];
  const load = (name: string) =>
    `await import('${new URL(`${name}.${fromSources ? 'ts' : 'js'}`, import.meta.url).href}')`;
  // The host of TensorFlow.js waits for the script to load it; nobody else can tell it that a script does.
  const rank = [load('./preload'), load('../hosts/tfjs/preload')].join(';');
  const entry = [
    "import{isMainThread}from'node:worker_threads'",
    `if(isMainThread&&(process.env.${PRIVATE_VARIABLE}||process.env.${HOSTS_VARIABLE})){${rank}}`,
    `else if(isMainThread||${!fromSources}){${load('../hosts/tfjs/bystander')}}`,
  ].join('\n');
  return [
    ...(script.nodeFlags.length > 0 ? script.nodeFlags : own),
    '--import',
    `data:text/javascript,${encodeURIComponent(entry)}`,
  ];
}

/** DEEPSPEED_JS_SEED makes a run repeatable whose script leaves chance to `Math.random`. */
function runSeed(): number {
  const given = process.env.DEEPSPEED_JS_SEED;
  if (given === undefined || given === '') return randomInt(2 ** 32);
  const seed = Number(given);
  if (Number.isInteger(seed) && seed >= 0 && seed < 2 ** 32) return seed;
  throw new DeepSpeedError(
    'LAUNCHER_USAGE',
    `DEEPSPEED_JS_SEED is "${given}"; it must be a whole number from 0 to 4294967295`,
  );
}

/** A port that nobody listens on now; what a script does with MASTER_PORT is its own affair. */
async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((done, fail) => {
    server.once('error', fail).listen(0, '127.0.0.1', done);
  });
  const { port } = server.address() as AddressInfo;
  await new Promise((done) => server.close(done));
  return port;
}
