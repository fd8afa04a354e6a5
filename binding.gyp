# node-gyp only delegates: CMakeLists.txt is the one description of the build. The output named here never exists, so
# the action always runs (which takes an input, too) and CMake decides what is out of date.
{
  'targets': [
    {
      'target_name': 'ddad',
      'type': 'none',
      'actions': [
        {
          'action_name': 'cmake',
          'inputs': ['CMakeLists.txt'],
          'outputs': ['<(INTERMEDIATE_DIR)/always-run-cmake'],
          'action': ['node', 'scripts/build.mjs'],
        }
      ]
    }
  ]
}
