/** Loaded by the launcher into every rank, after the rank has joined its run and before the script. */
import { getRunEnvironment } from '../../launcher/run-environment.ts';
import { installHost } from './process.ts';

const run = getRunEnvironment();
if (run) installHost(run);
