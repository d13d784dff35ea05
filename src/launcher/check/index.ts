/** The check before training. */
export { type CheckOptions, type CheckReport, check } from './check.ts';
export type { SlowLink, SlowMember } from './find-faults.ts';
export { HostProbes } from './host-probes.ts';
export type { Link } from './links.ts';
export { busBandwidth, type Lost, type Probe, type Probes } from './probes.ts';
export { RankProbes } from './rank-probes.ts';
