// From a row's texts to the token ids that the trunk reads, and from its answer back to text.
//
// The file is a model of sentencepiece, and the library of that name would read it; but it and LibTorch both export a
// protobuf of their own, of different versions, so that in one process each calls the other's. What T5 needs of it,
// the likeliest pieces of each word, is little.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

class Tokenizer {
 public:
  // Of the file `spiece.model` of an export; throws std::runtime_error where it cannot be read.
  explicit Tokenizer(const std::string& file);

  // The tokens of `before[i]` and `texts[i]`, side by side, and `end_id`: at most `longest`. The longest texts lose
  // tokens at their ends until all fit.
  std::vector<int64_t> row(const std::vector<std::string>& before, const std::vector<std::string>& texts,
                           int64_t longest, int64_t end_id) const;

  // The text of `count` token ids, without special tokens and those beyond the vocabulary.
  std::string text(const int64_t* ids, std::size_t count) const;

 private:
  struct Piece {
    std::string text;
    float score = 0;
    uint64_t kind = 1;  // as the format numbers them: normal, unknown, control
  };

  void read(std::string_view model);
  std::string normalized(std::string_view text) const;
  std::size_t replaced(std::string_view text, std::string& plain) const;
  std::vector<int64_t> tokens(std::string_view text) const;
  void add_word(const std::string& word, std::vector<int64_t>& ids) const;

  std::vector<Piece> pieces_;
  std::unordered_map<std::string, int64_t> ids_;  // of the normal pieces
  std::size_t longest_piece_ = 0;                 // bytes
  int64_t unknown_ = 0;
  double unknown_score_ = 0;
  std::vector<uint32_t> trie_;     // a double array over the texts that are replaced; empty: none are
  std::string replacements_;       // each ends with a zero byte
};
