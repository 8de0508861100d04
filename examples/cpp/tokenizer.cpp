#include "tokenizer.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <numeric>
#include <optional>
#include <stdexcept>

namespace {

constexpr uint64_t NORMAL = 1, UNKNOWN = 2;
constexpr double UNKNOWN_PENALTY = 10;  // below the least likely piece
constexpr std::string_view WORD = "\u2581";

// Unicode's spaces beside the ASCII ones.
constexpr std::array<std::string_view, 19> SPACES = {
    "\u0085", "\u00a0", "\u1680", "\u2000", "\u2001", "\u2002", "\u2003", "\u2004", "\u2005", "\u2006",
    "\u2007", "\u2008", "\u2009", "\u200a", "\u2028", "\u2029", "\u202f", "\u205f", "\u3000"};

// How many bytes of a space `text` begins with; 0 where it begins with none.
std::size_t space_at(std::string_view text) {
  if (text.front() == ' ' || (text.front() >= '\t' && text.front() <= '\r')) {
    return 1;
  }
  const auto* found =
      std::find_if(SPACES.begin(), SPACES.end(), [&](std::string_view space) { return text.starts_with(space); });
  return found == SPACES.end() ? 0 : found->size();
}

// The bytes of the character that `text` begins with.
std::size_t character(std::string_view text) {
  const auto first = static_cast<unsigned char>(text.front());
  const std::size_t size = first < 0xC0 ? 1 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
  return std::min(size, text.size());
}

// A message of protocol buffers, field by field.
class Message {
 public:
  explicit Message(std::string_view bytes) : left_(bytes) {}

  // Goes on to the next field; false behind the last.
  bool next() {
    if (left_.empty()) {
      return false;
    }
    const uint64_t tag = varint();
    key = tag >> 3;
    bytes = {};  // of the field before
    switch (tag & 7) {
      case 0:
        number = varint();
        return true;
      case 1:
        bytes = take(8);
        return true;
      case 2:
        bytes = take(varint());
        return true;
      case 5:
        bytes = take(4);
        return true;
      default:
        throw std::runtime_error("not a model of sentencepiece");
    }
  }

  uint64_t key = 0, number = 0;
  std::string_view bytes;

 private:
  std::string_view take(uint64_t count) {
    if (count > left_.size()) {
      throw std::runtime_error("a model of sentencepiece that ends early");
    }
    const auto taken = left_.substr(0, count);
    left_.remove_prefix(count);
    return taken;
  }

  uint64_t varint() {
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<unsigned char>(take(1).front());
      value |= static_cast<uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) {
        return value;
      }
    }
    throw std::runtime_error("not a model of sentencepiece");
  }

  std::string_view left_;
};

}  // namespace

Tokenizer::Tokenizer(const std::string& file) {
  std::ifstream stream(file, std::ios::binary);
  const std::string model{std::istreambuf_iterator<char>(stream), {}};
  if (!stream || model.empty()) {
    throw std::runtime_error(file + ": cannot be read; an export has it where the tokenizer is T5's");
  }
  read(model);
  double least = 0;
  for (std::size_t id = 0; id < pieces_.size(); ++id) {
    const Piece& piece = pieces_[id];
    least = std::min<double>(least, piece.score);
    if (piece.kind == NORMAL) {
      ids_.emplace(piece.text, static_cast<int64_t>(id));
      longest_piece_ = std::max(longest_piece_, piece.text.size());
    } else if (piece.kind == UNKNOWN) {
      unknown_ = static_cast<int64_t>(id);
    }
  }
  unknown_score_ = least - UNKNOWN_PENALTY;
}

void Tokenizer::read(std::string_view model) {
  for (Message fields(model); fields.next();) {
    if (fields.key == 1) {
      Piece& piece = pieces_.emplace_back();
      for (Message of(fields.bytes); of.next();) {
        if (of.key == 1) {
          piece.text = of.bytes;
        } else if (of.key == 2) {
          if (of.bytes.size() != sizeof piece.score) {
            throw std::runtime_error("a model of sentencepiece with a piece whose score is no float");
          }
          std::memcpy(&piece.score, of.bytes.data(), sizeof piece.score);
        } else if (of.key == 3) {
          piece.kind = of.number;
        }
      }
    } else if (fields.key == 3) {
      for (Message of(fields.bytes); of.next();) {
        if (of.key == 2 && of.bytes.size() > sizeof(uint32_t)) {  // the trie's bytes, the trie, the replacements
          uint32_t size = 0;
          std::memcpy(&size, of.bytes.data(), sizeof size);
          const auto rest = of.bytes.substr(sizeof size);
          trie_.resize(std::min<std::size_t>(size, rest.size()) / sizeof(uint32_t));
          std::memcpy(trie_.data(), rest.data(), trie_.size() * sizeof(uint32_t));
          replacements_ = rest.substr(trie_.size() * sizeof(uint32_t));
        }
      }
    }
  }
}

// Adds to `plain` what stands for the longest beginning of `text` that is replaced, or its first character; the bytes
// that were read.
std::size_t Tokenizer::replaced(std::string_view text, std::string& plain) const {
  std::size_t read = 0;
  uint32_t found = 0;
  const auto unit = [&](std::size_t at) { return at < trie_.size() ? trie_[at] : 0; };
  const auto offset = [](uint32_t of) { return (of >> 10) << ((of & (1U << 9)) >> 6); };
  std::size_t node = offset(unit(0));
  for (std::size_t i = 0; i < text.size() && !trie_.empty(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const uint32_t own = unit(node ^ byte);
    if ((own & ((1U << 31) | 0xFF)) != byte) {
      break;
    }
    node ^= byte ^ offset(own);
    if (own >> 8 & 1) {  // a text ends here, and its leaf says where its replacement begins
      read = i + 1;
      found = unit(node) & ~(1U << 31);
    }
  }
  if (read == 0) {
    read = character(text);
    plain += text.substr(0, read);
  } else if (found < replacements_.size()) {
    plain += replacements_.c_str() + found;
  }
  return read;
}

std::string Tokenizer::normalized(std::string_view text) const {
  std::string plain;
  plain.reserve(text.size());
  while (!text.empty()) {
    text.remove_prefix(replaced(text, plain));
  }
  return plain;
}

std::vector<int64_t> Tokenizer::tokens(std::string_view text) const {
  const std::string plain = normalized(text);
  std::vector<int64_t> ids;
  std::string word(WORD);
  for (std::string_view left = plain; !left.empty();) {
    const std::size_t space = space_at(left);
    if (space == 0) {
      word += left.front();
    } else if (word.size() > WORD.size()) {
      add_word(word, ids);
      word = WORD;
    }
    left.remove_prefix(std::max<std::size_t>(space, 1));
  }
  if (word.size() > WORD.size()) {
    add_word(word, ids);
  }
  return ids;
}

// Viterbi's algorithm: the likeliest way to write a word, from its beginning to each byte.
void Tokenizer::add_word(const std::string& word, std::vector<int64_t>& ids) const {
  struct Way {
    double score = -std::numeric_limits<double>::infinity();
    int64_t id = 0;
    std::size_t from = 0;
  };
  std::vector<Way> best(word.size() + 1);
  best[0].score = 0;
  const auto offer = [&](std::size_t from, std::size_t to, int64_t id, double score) {
    if (const double total = best[from].score + score; total > best[to].score) {
      best[to] = {total, id, from};
    }
  };
  for (std::size_t from = 0, step = 0; from < word.size(); from += step) {
    step = character(std::string_view(word).substr(from));
    bool alone = false;
    for (std::size_t size = 1; size <= std::min(longest_piece_, word.size() - from); ++size) {
      if (const auto piece = ids_.find(word.substr(from, size)); piece != ids_.end()) {
        offer(from, from + size, piece->second, pieces_[piece->second].score);
        alone |= size == step;
      }
    }
    if (!alone) {
      offer(from, from + step, unknown_, unknown_score_);
    }
  }
  std::vector<int64_t> reversed;
  for (std::size_t at = word.size(); at > 0; at = best[at].from) {
    if (best[at].id != unknown_ || reversed.empty() || reversed.back() != unknown_) {  // unknown ones side by side: one
      reversed.push_back(best[at].id);
    }
  }
  ids.insert(ids.end(), reversed.rbegin(), reversed.rend());
}

std::vector<int64_t> Tokenizer::row(const std::vector<std::string>& before, const std::vector<std::string>& texts,
                                    int64_t longest, int64_t end_id) const {
  std::vector<std::vector<int64_t>> names, own;
  int64_t room = longest - 1;
  for (const auto& name : before) {
    names.push_back(tokens(name));
    room -= static_cast<int64_t>(names.back().size());
  }
  for (const auto& text : texts) {
    own.push_back(tokens(text));
  }
  std::vector<std::size_t> by_length(own.size());
  std::iota(by_length.begin(), by_length.end(), 0);
  std::stable_sort(by_length.begin(), by_length.end(),
                   [&](std::size_t a, std::size_t b) { return own[a].size() < own[b].size(); });
  for (std::size_t done = 0; done < by_length.size(); ++done) {
    auto& ids = own[by_length[done]];
    const int64_t share = std::max<int64_t>(room / static_cast<int64_t>(by_length.size() - done), 0);
    ids.resize(std::min(ids.size(), static_cast<std::size_t>(share)));
    room -= static_cast<int64_t>(ids.size());
  }
  std::vector<int64_t> ids;
  for (std::size_t i = 0; i < own.size(); ++i) {
    ids.insert(ids.end(), names[i].begin(), names[i].end());
    ids.insert(ids.end(), own[i].begin(), own[i].end());
  }
  ids.push_back(end_id);
  return ids;
}

std::string Tokenizer::text(const int64_t* ids, std::size_t count) const {
  std::string text;
  for (std::size_t i = 0; i < count; ++i) {
    const auto id = static_cast<std::size_t>(ids[i]);
    if (id >= pieces_.size() || pieces_[id].kind != NORMAL) {
      continue;
    }
    for (std::string_view left = pieces_[id].text; !left.empty();) {
      const bool word = left.starts_with(WORD);
      text += word ? ' ' : left.front();
      left.remove_prefix(word ? WORD.size() : 1);
    }
  }
  const auto first = text.find_first_not_of(' ');
  return first == std::string::npos ? "" : text.substr(first, text.find_last_not_of(' ') + 1 - first);
}
