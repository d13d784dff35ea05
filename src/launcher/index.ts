/** Starting a run (the command line) and being a rank of one (the library). */
export { type LaunchOptions, launch } from './launch.ts';
export { packageVersion } from './package-version.ts';
export { getRunEnvironment, type RunEnvironment } from './run-environment.ts';
export { typescriptFlags } from './script.ts';
