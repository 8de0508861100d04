// From a row's texts to the token ids that the trunk reads, and from its answer back to text.
#pragma once

#include <sentencepiece_processor.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

// The parts of a line between tabs.
std::vector<std::string> fields_of(const std::string& line);

class Tokenizer {
 public:
  // Of the file `spiece.model` of an export; throws std::runtime_error where it cannot be read.
  explicit Tokenizer(const std::string& file);

  // The tokens of `before[i]` and `texts[i]`, side by side, and `end_id`: at most `longest`. The longest texts lose
  // tokens at their ends until all fit.
  std::vector<int64_t> row(const std::vector<std::string>& before, const std::vector<std::string>& texts,
                           int64_t longest, int64_t end_id) const;

  // The text of token ids, without special tokens and those beyond the vocabulary.
  std::string text(const int64_t* ids, int64_t count) const;

 private:
  std::vector<int> tokens(std::string_view text) const;

  sentencepiece::SentencePieceProcessor pieces_;
};
