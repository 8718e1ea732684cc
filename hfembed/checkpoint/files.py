"""Names of the files of a checkpoint, each in one place."""

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
PROCESSOR_FILE = "preprocessor_config.json"
PEOPLE_FILE = "people.txt"
TRAINING_FILE = "training.json"
RESULTS_FILE = "results.json"
CARD_FILE = "README.md"
STATISTICS_FILE = "latent_statistics.safetensors"
# a face embedder with a detector in this folder is a complete analyzer
DETECTOR_FOLDER = "detector"
WORD_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab_counts.safetensors")
