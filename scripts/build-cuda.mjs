// Builds the CUDA device into the addon's build folder, with the addon where that is out of date:
//   npm run build:cuda
// The toolkit is the installed one, or downloaded; DDAD_CUDA_ARCHS="90" builds for one compute capability only.
import path from 'node:path';
import { root, run } from './lib/run.mjs';
import { setupCuda } from './setup-cuda.mjs';

setupCuda();
run(process.execPath, [path.join(root, 'scripts', 'build.mjs'), 'ddad_cuda', 'ddad_addon'], {
  env: { ...process.env, DDAD_CUDA: 'on' },
});
