/** Starting a run (the command line) and being a rank of one (the library). */
export { type LaunchOptions, launch } from './launch.ts';
export { usableCores } from './cores.ts';
export { packageVersion } from './package-version.ts';
export { getRunEnvironment, type RunEnvironment } from './run-environment.ts';
export { typescriptFlags } from './script.ts';
export { type ChosenHost, chooseHosts } from './hosts/filter.ts';
export { launcherKind } from './hosts/commands.ts';
export { forwardedVariables } from './hosts/environment-file.ts';
export { readHostfile } from './hosts/hostfile.ts';
export { type HostsPlan, isThisMachine, requireTools } from './hosts/launch-on-hosts.ts';
export * from './check/index.ts';
