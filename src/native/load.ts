/**
 * Finds and loads the native engine, once per thread and only when something asks for it. The file is
 * `prebuilds/<platform>-<arch>/deepspeed.node` of this package; `DEEPSPEED_JS_ADDON` names another.
 */
import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { DeepSpeedError } from '../errors.ts';
import { buildCommand } from './build-command.ts';
import type { NativeAddon } from './contract.ts';

/** `process.platform-process.arch` pairs that the engine is built for. */
export const supportedPlatforms = ['linux-x64', 'linux-arm64', 'darwin-x64', 'darwin-arm64'];

/** What the loader looks at; tests give their own. */
export interface LoadEnvironment {
  platform: string;
  arch: string;
  /** Value of DEEPSPEED_JS_ADDON. */
  override?: string | undefined;
  /** Folder that holds `prebuilds`. */
  packageRoot: string;
  /** Written by the build beside the compiled TypeScript; absent when running from `src`. */
  buildIdFile: string;
}

function currentEnvironment(): LoadEnvironment {
  const here = dirname(fileURLToPath(import.meta.url)); // src/native or dist/native
  return {
    platform: process.platform,
    arch: process.arch,
    override: process.env.DEEPSPEED_JS_ADDON,
    packageRoot: join(here, '..', '..'),
    buildIdFile: join(here, '..', 'build-id.json'),
  };
}

function howToBuild({ override, packageRoot }: LoadEnvironment, force = false): string {
  if (override) return 'Correct DEEPSPEED_JS_ADDON, or unset it.';
  return `Run: ${buildCommand(packageRoot, force)}   (needs cmake and a C++20 compiler)`;
}

let loaded: NativeAddon | undefined;

/**
 * The native engine.
 *
 * @throws DeepSpeedError ADDON_PLATFORM, ADDON_MISSING, ADDON_BROKEN or ADDON_BUILD_MISMATCH.
 */
export function loadAddon(): NativeAddon {
  loaded ??= loadAddonFrom(currentEnvironment());
  return loaded;
}

/** As `loadAddon`, from a described environment; loads anew each time. */
export function loadAddonFrom(environment: LoadEnvironment): NativeAddon {
  const path = addonPath(environment);
  if (!existsSync(path)) {
    throw new DeepSpeedError(
      'ADDON_MISSING',
      `the native engine is not built: ${path} is missing`,
      {
        fix: howToBuild(environment),
        data: { path },
      },
    );
  }
  let addon: NativeAddon;
  try {
    addon = createRequire(import.meta.url)(path) as NativeAddon;
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new DeepSpeedError('ADDON_BROKEN', `the native engine does not load: ${reason}`, {
      cause,
      fix: howToBuild(environment, true),
      data: { path },
    });
  }
  checkBuildId(addon.info().buildId, environment.buildIdFile);
  return addon;
}

/** The engine's file here, whether or not it exists. */
export function addonFile(): string {
  return addonPath(currentEnvironment());
}

function addonPath({ platform, arch, override, packageRoot }: LoadEnvironment): string {
  const target = `${platform}-${arch}`;
  if (!supportedPlatforms.includes(target)) {
    throw new DeepSpeedError(
      'ADDON_PLATFORM',
      `deepspeed-js does not support ${target}; it supports ${supportedPlatforms.join(', ')}`,
      { data: { platform, arch } },
    );
  }
  return override || join(packageRoot, 'prebuilds', target, 'deepspeed.node');
}

/** Built TypeScript runs only with the addon of the same build; sources run with any. */
function checkBuildId(found: string, buildIdFile: string): void {
  if (!existsSync(buildIdFile)) return;
  const { buildId: required } = JSON.parse(readFileSync(buildIdFile, 'utf8')) as {
    buildId: string;
  };
  if (found === required) return;
  throw new DeepSpeedError(
    'ADDON_BUILD_MISMATCH',
    `the native engine is of build ${found}, this library of build ${required}`,
    { data: { found, required } },
  );
}
