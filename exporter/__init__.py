"""How does a width become an ONNX file? Templates, weight injection, passes, parity, manifest.

Per model and width the graph is traced once into a template without weights (`exporter.templates`).
Per round the sliced weights are put in by name (`exporter.injection`), the graph is optimised
(`exporter.passes`) and compared with torch (`exporter.parity`); `exporter.export` does these in
order. `exporter.run_export` does so for several widths, measures each in float32 and int8
(`exporter.width_forms`) and chooses (`exporter.selection`); `exporter.file_check` verifies a file
anywhere. Importing this package, `exporter.errors`, `exporter.manifest` or `exporter.command`
imports neither torch nor onnx.
"""
