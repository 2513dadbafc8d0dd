"""Models that look at pictures: from a request's images to rows of embeddings among its tokens.

* `decoding`: an image file becomes pixels, whatever it is;
* `reader`: pixels become what the model's vision tower takes, and the tokens that stand for them;
* `prompt`: a chat with images becomes a prompt;
* `tower`: pictures become rows of embeddings, remembered for a while;
* `check`: whether the engine then says what the model itself says;
* `load`: from a directory to all of it.

The first three run in the prompt thread, the others in the engine thread, which joins such prompts into its batch like
any other (`engine.illustrated`).
"""
