#include "text.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <stdexcept>

namespace {

// Unicode's spaces beside the ASCII ones, as UTF-8: the tokenizers cut at each, sentencepiece at U+0020 alone.
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

}  // namespace

std::vector<std::string> fields_of(const std::string& line) {
  std::vector<std::string> fields;
  std::size_t start = 0;
  for (std::size_t tab = 0; tab != std::string::npos; start = tab + 1) {
    tab = line.find('\t', start);
    fields.push_back(line.substr(start, tab - start));
  }
  return fields;
}

Tokenizer::Tokenizer(const std::string& file) {
  if (const auto status = pieces_.Load(file); !status.ok()) {
    throw std::runtime_error(file + ": " + status.ToString());
  }
}

std::vector<int> Tokenizer::tokens(std::string_view text) const {
  std::string plain;
  plain.reserve(text.size());
  while (!text.empty()) {
    const std::size_t space = space_at(text);
    plain += space ? ' ' : text.front();
    text.remove_prefix(std::max<std::size_t>(space, 1));
  }
  std::vector<int> ids;
  if (const auto status = pieces_.Encode(plain, &ids); !status.ok()) {
    throw std::runtime_error(status.ToString());
  }
  return ids;
}

std::vector<int64_t> Tokenizer::row(const std::vector<std::string>& before, const std::vector<std::string>& texts,
                                    int64_t longest, int64_t end_id) const {
  std::vector<std::vector<int>> names, own;
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
    const int64_t share = room / static_cast<int64_t>(by_length.size() - done);
    ids.resize(std::min(ids.size(), static_cast<std::size_t>(std::max<int64_t>(share, 0))));
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

std::string Tokenizer::text(const int64_t* ids, int64_t count) const {
  std::vector<int> shown;
  for (const int64_t* id = ids; id != ids + count; ++id) {
    const int piece = static_cast<int>(*id);
    if (*id < pieces_.GetPieceSize() && !pieces_.IsControl(piece) && !pieces_.IsUnknown(piece)) {
      shown.push_back(piece);
    }
  }
  std::string text;
  if (const auto status = pieces_.Decode(shown, &text); !status.ok()) {
    throw std::runtime_error(status.ToString());
  }
  return text;
}
