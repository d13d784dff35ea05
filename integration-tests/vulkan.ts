/** WebGPU for tests: whether it is here. On Linux it needs a driver for Vulkan. */
import { existsSync } from 'node:fs';
import { inspectProviders } from '../src/cli/providers.ts';
import { findOrtLibrary } from '../src/native/ort-library.ts';

/** A driver that computes on the processor, as Debian's package chromium-common brings it. */
const softwareDriver = '/usr/lib/chromium/vk_swiftshader_icd.json';

function whyNoWebgpu(): string | null {
  const isChosen = process.env.VK_ICD_FILENAMES ?? process.env.VK_DRIVER_FILES;
  if (isChosen === undefined && existsSync(softwareDriver))
    process.env.VK_ICD_FILENAMES = softwareDriver;
  return inspectProviders(findOrtLibrary().path).find(({ name }) => name === 'webgpu')!.fault;
}

/** Why tests on WebGPU cannot run here, or null. Processes that a test starts inherit the driver. */
export const noWebgpu: string | null = whyNoWebgpu();
if (noWebgpu !== null) console.log(`tests on WebGPU are skipped: ${noWebgpu}`);
