/**
 * Loaded into the main thread of every process that the launcher starts, before the user's script.
 * It makes the process a rank, once, and leaves no trace that would make a child process one.
 */
import { loadAddon } from '../native/load.ts';
import { nameTrainingChildren } from './bystanders.ts';
import { openRankChannel } from './channel.ts';
import { HOSTS_VARIABLE, type HostsRun, joinHosts } from './hosts/hosts-environment.ts';
import { isNurseryFlag } from './nursery.ts';
import {
  PRIVATE_VARIABLE,
  type PrivateRunEnvironment,
  RANK_PID_VARIABLE,
  storeRunEnvironment,
} from './run-environment.ts';

const encoded = process.env[PRIVATE_VARIABLE];
const onHosts = process.env[HOSTS_VARIABLE];
if (encoded !== undefined || onHosts !== undefined) {
  delete process.env[PRIVATE_VARIABLE];
  delete process.env[HOSTS_VARIABLE];
  process.env[RANK_PID_VARIABLE] = String(process.pid);
  nameTrainingChildren(process.env);
  // The user's workers and children are none of ours; they keep the `--import` that led here, which finds
  // no run in them.
  process.execArgv = process.execArgv.filter((flag) => !isNurseryFlag(flag));
  if (encoded !== undefined) joinRun(JSON.parse(encoded) as PrivateRunEnvironment);
  else storeRunEnvironment(joinHosts(JSON.parse(onHosts!) as HostsRun, loadAddon()));
}

function joinRun({ launcherPid, channelFd, ...run }: PrivateRunEnvironment): void {
  const addon = loadAddon();
  const { rank, worldSize, memory } = run;
  addon.joinRun({ rank, worldSize, ...memory, parentPid: launcherPid });
  openRankChannel(channelFd);
  if (run.cores !== null) addon.bindCores(run.cores);
  storeRunEnvironment(run);
}
